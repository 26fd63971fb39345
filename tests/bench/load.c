/* Both ends of the bench: the clients that make load, and the origin that they reach. Neither knows what is between.

       load origin ADDRESS PORT                         serve at PORT (HTTP), +1 (echo), +2 (sink), +3 (source)
       load WORK PROXY ADDRESS PORT COUNT SIZE SECONDS  one work on COUNT links; one JSON object on stdout
       load leash COMMAND...                            become COMMAND, which dies with whoever started this

   PROXY is address:port, or "-" for straight to the origin, where a connection stands for a tunnel. The works:

       tunnels   CONNECT, 200, close, COUNT at a time      gets   plain GET of SIZE octets on COUNT connections
       echoes    SIZE octets there and back, on COUNT      fresh  the same, each with a connection of its own
       up, down  bulk through COUNT tunnels                idle   COUNT silent tunnels until stdin ends

   Every octet that comes back is compared, and what is wrong is counted, never retried in silence. An operation
   counts if it ended in time; one that began and did not end within GRACE more seconds is an error ("stalled"). */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PERIOD = 65521,       /* of the pattern that all bodies are made of: a prime, so that no lost block goes unseen */
    PIECE = 64 * 1024,    /* octets read or written at once in bulk */
    BODY = 1024,          /* what the origin answers to a GET */
    ANSWER = 8192,        /* the longest answer, its head included */
    AT_ONCE = 32,         /* links that are being opened while the clock does not run yet */
    MOST_LINKS = 4096,
    MOST_ERRORS = 1000,   /* then the work ends early */
    MOST_SAMPLES = 1 << 20,
    PATIENCE = 20,        /* seconds for opening all links */
    GRACE = 5,            /* seconds for what is under way when the time is up */
    IDLE_SECONDS = 120,   /* at most */
};

static unsigned char pattern[PERIOD + PIECE];
static int poller;

static void die(const char *what) {
    perror(what);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct sockaddr_in address(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "load: %s is no IPv4 address\n", host);
        exit(2);
    }
    return a;
}

static void without_delay(int fd) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static void watch(int operation, int fd, uint32_t events, void *who) {
    struct epoll_event e = {.events = events, .data.ptr = who};
    if (epoll_ctl(poller, operation, fd, &e) != 0) die("epoll_ctl");
}

static int would_block(ssize_t count) { return count < 0 && (errno == EAGAIN || errno == EINTR); }

/* Whether `count` octets are those of the pattern behind `*position` others; moves on. */
static int as_expected(const void *octets, size_t count, uint64_t *position) {
    int same = memcmp(octets, pattern + *position % PERIOD, count) == 0;
    *position += count;
    return same;
}

/* ------------------------------------------------------------------------------------------------ the origin */

enum port { HTTP, ECHO, SINK, SOURCE, PORTS };

struct guest {
    int fd, is_listener;
    enum port port;
    uint64_t position; /* octets sunk or sourced */
    size_t heard;
    char head[ANSWER];
};

static void say_goodbye(struct guest *g) {
    close(g->fd);
    free(g);
}

/* Answer each complete GET in the buffer: 0 when the connection is to end. */
static int answer_gets(struct guest *g) {
    static char answer[256 + BODY];
    char *end;
    while ((end = memmem(g->head, g->heard, "\r\n\r\n", 4)) != NULL) {
        *end = '\0';
        int last = strcasestr(g->head, "\r\nconnection: close") != NULL;
        if (strncmp(g->head, "GET /", 5) != 0) return 0;
        int length = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n", BODY,
                             last ? "Connection: close\r\n" : "");
        memcpy(answer + length, pattern, BODY);
        if (send(g->fd, answer, (size_t)length + BODY, 0) != length + BODY || last) return 0;
        g->heard -= (size_t)(end + 4 - g->head);
        memmove(g->head, end + 4, g->heard);
    }
    return g->heard < sizeof g->head - 1;
}

/* One step with a guest: 0 when the connection is to end. */
static int serve(struct guest *g) {
    static char piece[PIECE];
    ssize_t count;
    switch (g->port) {
    case HTTP:
        count = recv(g->fd, g->head + g->heard, sizeof g->head - 1 - g->heard, 0);
        if (count <= 0) return would_block(count);
        g->heard += (size_t)count;
        return answer_gets(g);
    case ECHO:
        count = recv(g->fd, piece, sizeof piece, 0);
        if (count <= 0) return would_block(count);
        return send(g->fd, piece, (size_t)count, 0) == count;
    case SINK:
        count = recv(g->fd, piece, sizeof piece, 0);
        if (count < 0) return would_block(count);
        if (count > 0) return as_expected(piece, (size_t)count, &g->position);
        dprintf(g->fd, "%llu\n", (unsigned long long)g->position);
        return 0;
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
        watch(EPOLL_CTL_ADD, fd, g->port == SOURCE ? EPOLLOUT : EPOLLIN, g);
    }
}

static void be_origin(const char *host, int port) {
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

/* ------------------------------------------------------------------------------------------------- the clients */

enum work { TUNNELS, GETS, FRESH, ECHOES, UP, DOWN, IDLE, WORKS };
static const char *const names[WORKS] = {"tunnels", "gets", "fresh", "echoes", "up", "down", "idle"};

struct link {
    int fd;                                                /* -1: retired */
    enum { CONNECTING, ASKING, OPEN, CONFIRMING } state;
    uint32_t awaited;                                      /* epoll events */
    double began;                                          /* the operation in hand */
    uint64_t position;                                     /* octets of bulk, sent or received */
    size_t heard;                                          /* octets of the answer in hand */
    char answer[ANSWER + 1];
};

static enum work work;
static int proxied, count_of_links, size;
static double seconds;
static struct sockaddr_in first_hop;
static char request[512];
static size_t request_length;

static struct link links[MOST_LINKS];
static enum { OPENING, RUNNING, ENDING } phase;
static int opened, opening, live;
static double start, deadline, finished;
static unsigned long long done, octets;
static unsigned errors;
static char first_error[160];
static uint32_t samples[MOST_SAMPLES]; /* nanoseconds an operation took; the first that fit */
static unsigned sampled;

static int opens_anew(void) { return work == TUNNELS || work == FRESH; }

static void await(struct link *l, uint32_t events) {
    if (l->awaited != events) watch(EPOLL_CTL_MOD, l->fd, events, l);
    l->awaited = events;
}

static void retire(struct link *l) {
    close(l->fd);
    l->fd = -1;
    live--;
}

static void fail(struct link *l, const char *why, ...) __attribute__((format(printf, 2, 3)));

static void open_link(struct link *l) {
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (l->fd < 0) die("socket");
    without_delay(l->fd);
    l->state = CONNECTING;
    l->awaited = EPOLLOUT;
    l->heard = 0;
    l->position = 0;
    l->began = now();
    live++;
    if (connect(l->fd, (struct sockaddr *)&first_hop, sizeof first_hop) == 0 || errno == EINPROGRESS)
        watch(EPOLL_CTL_ADD, l->fd, EPOLLOUT, l);
    else fail(l, "connect: %s", strerror(errno));
}

static void fail(struct link *l, const char *why, ...) {
    if (errors++ == 0) {
        va_list arguments;
        va_start(arguments, why);
        vsnprintf(first_error, sizeof first_error, why, arguments);
        va_end(arguments);
        for (char *c = first_error; *c; c++)
            if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\') *c = '?';
    }
    if (phase == OPENING && l->state != OPEN) opening--;
    retire(l);
    if (phase == RUNNING && opens_anew() && errors < MOST_ERRORS) open_link(l);
}

static void say(struct link *l, const void *text, size_t length) {
    l->heard = 0;
    if (send(l->fd, text, length, 0) != (ssize_t)length) fail(l, "a message could not be sent");
    else await(l, EPOLLIN);
}

static void begin(struct link *l);

/* The operation in hand is complete. */
static void complete(struct link *l) {
    double end = now();
    if (end <= deadline) {
        done++;
        if (sampled < MOST_SAMPLES) samples[sampled++] = (uint32_t)((end - l->began) * 1e9);
    }
    if (phase == ENDING || opens_anew()) retire(l);
    if (phase == ENDING) return;
    if (opens_anew()) open_link(l);
    else begin(l);
}

/* Begin an operation on a link that stands. */
static void begin(struct link *l) {
    if (!opens_anew()) l->began = now();
    switch (work) {
    case TUNNELS: complete(l); break;
    case GETS:
    case FRESH: say(l, request, request_length); break;
    case ECHOES: say(l, pattern + done % PERIOD, (size_t)size); l->position = done % PERIOD; break;
    case UP: await(l, EPOLLOUT); break;
    default: await(l, EPOLLIN);
    }
}

static void stands(struct link *l) {
    l->state = OPEN;
    l->heard = 0;
    if (phase == OPENING) {
        opening--;
        await(l, 0);
    } else begin(l);
}

/* What a CONNECT was answered. Only a source may have said more by now. */
static void hear_connect(struct link *l) {
    char *end = strstr(l->answer, "\r\n\r\n");
    if (strncmp(l->answer, "HTTP/1.1 200 ", 13) != 0 && l->heard >= 13) {
        fail(l, "CONNECT was answered %.*s", (int)strcspn(l->answer, "\r\n"), l->answer);
    } else if (end != NULL) {
        size_t more = l->heard - (size_t)(end + 4 - l->answer);
        if (more > 0 && work != DOWN) fail(l, "octets that nobody sent");
        else if (!as_expected(end + 4, more, &l->position)) fail(l, "wrong octets");
        else stands(l);
    }
}

static void hear_get(struct link *l) {
    char *end = strstr(l->answer, "\r\n\r\n");
    if (end == NULL) return;
    char *length = strcasestr(l->answer, "\r\ncontent-length:");
    size_t wanted = (size_t)(end + 4 - l->answer) + (size_t)size;
    if (strncmp(l->answer, "HTTP/1.1 200 ", 13) != 0)
        fail(l, "GET was answered %.*s", (int)strcspn(l->answer, "\r\n"), l->answer);
    else if (length == NULL || length > end || atoi(length + 17) != size) fail(l, "GET was answered in another length");
    else if (l->heard > wanted) fail(l, "octets that nobody sent");
    else if (l->heard == wanted && memcmp(end + 4, pattern, (size_t)size) != 0) fail(l, "wrong octets");
    else if (l->heard == wanted) complete(l);
}

static void hear_echo(struct link *l) {
    if (l->heard > (size_t)size) fail(l, "octets that nobody sent");
    else if (l->heard == (size_t)size && memcmp(l->answer, pattern + l->position, (size_t)size) != 0)
        fail(l, "wrong octets");
    else if (l->heard == (size_t)size) complete(l);
}

/* What the sink says it got, once our side ended. */
static void hear_confirmation(struct link *l) {
    if (strchr(l->answer, '\n') == NULL) return;
    if (strtoull(l->answer, NULL, 10) != l->position) {
        fail(l, "the sink got another number of octets");
        return;
    }
    octets += l->position;
    finished = now();
    retire(l);
}

static void hear(struct link *l) {
    ssize_t count = recv(l->fd, l->answer + l->heard, ANSWER - l->heard, 0);
    if (would_block(count)) return;
    if (count <= 0) {
        fail(l, count == 0 ? "a connection ended early" : "a connection broke: %s", strerror(errno));
        return;
    }
    l->heard += (size_t)count;
    l->answer[l->heard] = '\0';
    if (l->state == ASKING) hear_connect(l);
    else if (l->state == CONFIRMING) hear_confirmation(l);
    else if (work == GETS || work == FRESH) hear_get(l);
    else if (work == ECHOES) hear_echo(l);
    else fail(l, "octets that nobody sent");
}

static void pour(struct link *l) {
    ssize_t count = send(l->fd, pattern + l->position % PERIOD, PIECE, 0);
    if (count > 0) l->position += (uint64_t)count;
    else if (!would_block(count)) fail(l, "a tunnel broke: %s", strerror(errno));
}

static void drink(struct link *l) {
    static char piece[PIECE];
    ssize_t count = recv(l->fd, piece, sizeof piece, 0);
    if (would_block(count)) return;
    if (count <= 0) fail(l, "a tunnel ended early");
    else if (!as_expected(piece, (size_t)count, &l->position)) fail(l, "wrong octets");
    else octets += (unsigned long long)count;
}

static void connected(struct link *l) {
    int error = 0;
    getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
    if (error != 0) fail(l, "connect: %s", strerror(error));
    else if (!proxied || work == GETS || work == FRESH) stands(l);
    else {
        l->state = ASKING;
        say(l, request, request_length);
    }
}

static void attend(struct link *l) {
    if (l->state == CONNECTING) connected(l);
    else if (l->state == OPEN && phase == OPENING) fail(l, "a connection broke before its time");
    else if (l->state == OPEN && work == UP) pour(l);
    else if (l->state == OPEN && work == DOWN) drink(l);
    else hear(l);
}

static void begin_all(void) {
    phase = RUNNING;
    if (!opens_anew()) errors += (unsigned)(count_of_links - opened);
    start = now();
    deadline = start + seconds;
    if (work == IDLE) {
        puts("standing");
        fflush(stdout);
        deadline = start + IDLE_SECONDS;
        watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, NULL);
    }
    for (int i = 0; i < count_of_links; i++) {
        if (opens_anew()) open_link(&links[i]);
        else if (links[i].fd >= 0) begin(&links[i]);
    }
}

static void end_all(void) {
    phase = ENDING;
    finished = now();
    for (int i = 0; i < count_of_links; i++) {
        struct link *l = &links[i];
        if (l->fd < 0 || l->state != OPEN) continue;
        if (work == UP) {
            l->state = CONFIRMING;
            shutdown(l->fd, SHUT_WR);
            await(l, EPOLLIN);
        } else if (work == DOWN || work == IDLE) retire(l);
    }
}

static void run(void) {
    double limit = now() + PATIENCE;
    while (phase != ENDING || live > 0) {
        while (phase == OPENING && !opens_anew() && opened < count_of_links && opening < AT_ONCE) {
            opening++;
            open_link(&links[opened++]);
        }
        if (phase == OPENING && (opens_anew() || (opening == 0 && opened == count_of_links) || now() > limit)) begin_all();
        if (phase == RUNNING && (now() >= deadline || live == 0)) end_all();
        if (phase == ENDING && now() >= finished + GRACE) break;
        struct epoll_event events[64];
        int count = phase == ENDING && live == 0 ? 0 : epoll_wait(poller, events, 64, 50);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != NULL) attend(events[i].data.ptr);
            else deadline = 0; /* stdin: no more idling */
        }
        if (phase == RUNNING && deadline == 0) end_all();
    }
    for (int i = 0; i < count_of_links; i++)
        if (links[i].fd >= 0 && live > 0) fail(&links[i], "stalled");
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(void) {
    double took = finished - start > seconds ? finished - start : seconds; /* who died early was slow, not fast */
    qsort(samples, sampled, sizeof *samples, by_value);
    printf("{\"done\": %llu, \"octets\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %u, "
           "\"first_error\": \"%s\"}\n",
           done, octets, took, sampled ? samples[sampled / 2] / 1e3 : 0,
           sampled ? samples[(uint64_t)sampled * 99 / 100] / 1e3 : 0, errors, first_error);
}

static void prepare(char **words) {
    const char *proxy = words[1];
    proxied = strcmp(proxy, "-") != 0;
    count_of_links = atoi(words[4]);
    size = atoi(words[5]);
    seconds = atof(words[6]);
    if (count_of_links < 1 || count_of_links > MOST_LINKS || size < 0 || size > BODY) {
        fprintf(stderr, "load: COUNT is 1 to %d, SIZE at most %d\n", MOST_LINKS, BODY);
        exit(2);
    }
    first_hop = address(words[2], atoi(words[3]));
    if (proxied) {
        const char *colon = strchr(proxy, ':');
        first_hop = address(strndup(proxy, strcspn(proxy, ":")), colon == NULL ? 0 : atoi(colon + 1));
    }
    const char *form = "CONNECT %s:%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n";
    if (work == GETS || work == FRESH)
        form = proxied ? "GET http://%s:%s/ HTTP/1.1\r\nHost: %s:%s\r\n\r\n" : "GET /?%s:%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n";
    request_length = (size_t)snprintf(request, sizeof request, form, words[2], words[3], words[2], words[3]);
    for (int i = 0; i < count_of_links; i++) links[i].fd = -1;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* survives exec */
    if (argc > 2 && strcmp(argv[1], "leash") == 0) {
        execvp(argv[2], argv + 2);
        die(argv[2]);
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (uint32_t i = 0, x = 1; i < PERIOD; i++) pattern[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    for (int i = PERIOD; i < PERIOD + PIECE; i++) pattern[i] = pattern[i - PERIOD];
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (argc == 4 && strcmp(argv[1], "origin") == 0) be_origin(argv[2], atoi(argv[3]));
    for (work = TUNNELS; work < WORKS; work++)
        if (argc == 8 && strcmp(argv[1], names[work]) == 0) {
            prepare(argv + 1);
            run();
            report();
            return 0;
        }
    fprintf(stderr, "load: the head of load.c says how it is called\n");
    return 2;
}
