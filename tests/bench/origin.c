/* The origin that the bench's clients reach: HTTP, an echo, a sink that acknowledges, and a source.

       GET /N    N octets of the pattern       POST /    nothing, once a body that is the pattern has come

   Who sends it wrong octets, or anything else that it does not expect, loses the connection. */

#include "both.h"

enum port { HTTP, ECHO, SINK, SOURCE, PORTS };

struct guest {
    int fd, is_listener, is_last;
    enum port port;
    uint32_t awaited;  /* epoll events */
    uint64_t position; /* octets of the body in hand, or of bulk */
    uint64_t due;      /* octets of a body that are still to come from the guest ... */
    uint64_t owed;     /* ... or to go to it */
    size_t heard;
    char head[HEAD + 1];
};

static void say_goodbye(struct guest *g) {
    close(g->fd);
    free(g);
}

static void wait_for(struct guest *g, uint32_t events) {
    if (g->awaited != events) watch(EPOLL_CTL_MOD, g->fd, events, g);
    g->awaited = events;
}

/* The head of an answer of `length` octets, and as much of those as can be sent at once: 0 when it is over. */
static int answer(struct guest *g, uint64_t length) {
    static char text[256 + PIECE];
    size_t piece = length < PIECE ? (size_t)length : PIECE;
    int head = sprintf(text, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n%s\r\n",
                       (unsigned long long)length, g->is_last ? "Connection: close\r\n" : "");
    memcpy(text + head, pattern, piece);
    ssize_t count = send(g->fd, text, (size_t)head + piece, 0);
    if (count < head) return 0;
    g->position = (uint64_t)(count - head);
    g->owed = length - g->position;
    if (g->owed > 0) wait_for(g, EPOLLOUT);
    return g->owed > 0 || !g->is_last;
}

/* Send more of the answer in hand. */
static int answer_on(struct guest *g) {
    ssize_t count = send(g->fd, pattern + g->position % PERIOD, g->owed < PIECE ? g->owed : PIECE, 0);
    if (count <= 0) return would_block(count);
    g->position += (uint64_t)count;
    g->owed -= (uint64_t)count;
    if (g->owed == 0) wait_for(g, EPOLLIN);
    return g->owed > 0 || !g->is_last;
}

/* Octets of a POST: answered once all of them came. */
static int take(struct guest *g, const void *octets, size_t count) {
    if (count > g->due || !as_expected(octets, count, &g->position)) return 0;
    g->due -= count;
    return g->due > 0 || answer(g, 0);
}

/* What came of a head, and of what follows it. Who asks does not send the next request before it has its answer. */
static int hear_request(struct guest *g) {
    g->head[g->heard] = '\0';
    char *end = strstr(g->head, "\r\n\r\n");
    if (end == NULL) return g->heard < HEAD;
    size_t more = g->heard - (size_t)(end + 4 - g->head);
    char *length = strcasestr(g->head, "\r\ncontent-length:"), *close = strcasestr(g->head, "\r\nconnection: close");
    g->is_last = close != NULL && close < end;
    g->heard = 0;
    g->position = 0;
    if (strncmp(g->head, "GET /", 5) == 0) return more == 0 && answer(g, strtoull(g->head + 5, NULL, 10));
    if (strncmp(g->head, "POST /", 6) != 0 || length == NULL || length > end) return 0;
    g->due = strtoull(length + 17, NULL, 10);
    return take(g, end + 4, more);
}

/* Octets of bulk: a receipt, one octet, for each RECEIPT of them. */
static int sink(struct guest *g, const void *octets, size_t count) {
    uint64_t before = g->position / RECEIPT;
    if (!as_expected(octets, count, &g->position)) return 0;
    return g->position / RECEIPT == before || send(g->fd, ".", 1, 0) == 1;
}

/* One step with a guest: 0 when the connection is to end. */
static int serve(struct guest *g) {
    static char piece[PIECE];
    ssize_t count;
    switch (g->port) {
    case HTTP:
        if (g->owed > 0) return answer_on(g);
        count = g->due > 0 ? recv(g->fd, piece, sizeof piece, 0) : recv(g->fd, g->head + g->heard, HEAD - g->heard, 0);
        if (count <= 0) return would_block(count);
        if (g->due > 0) return take(g, piece, (size_t)count);
        g->heard += (size_t)count;
        return hear_request(g);
    case ECHO:
        count = recv(g->fd, piece, sizeof piece, 0);
        if (count <= 0) return would_block(count);
        return send(g->fd, piece, (size_t)count, 0) == count;
    case SINK:
        count = recv(g->fd, piece, sizeof piece, 0);
        if (count <= 0) return would_block(count);
        return sink(g, piece, (size_t)count);
    default:
        count = send(g->fd, pattern + g->position % PERIOD, PIECE, 0);
        if (count > 0) g->position += (uint64_t)count;
        return count > 0 || would_block(count);
    }
}

static void welcome(const struct guest *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct guest *g = calloc(1, sizeof *g);
        if (g == NULL) die("calloc");
        g->fd = fd;
        g->port = listener->port;
        without_delay(fd);
        g->awaited = g->port == SOURCE ? EPOLLOUT : EPOLLIN;
        watch(EPOLL_CTL_ADD, fd, g->awaited, g);
    }
}

void be_origin(const char *host, int port) {
    static struct guest listeners[PORTS];
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_in here = address(host, port + i);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0 || listen(fd, 4096) != 0) die("listen");
        listeners[i] = (struct guest){.fd = fd, .is_listener = 1, .port = (enum port)i};
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, &listeners[i]);
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct guest *g = events[i].data.ptr;
            if (g->is_listener) welcome(g);
            else if (!serve(g)) say_goodbye(g);
        }
    }
}
