/* The clients of the bench, which make load, and the program of both its ends. Neither knows what is between.

       load origin ADDRESS PORT                         serve at PORT (HTTP), +1 (echo), +2 (sink), +3 (source)
       load WORK PROXY HOST PORT COUNT SIZE SECONDS     one work on COUNT links; one JSON object on stdout
       load leash COMMAND...                            become COMMAND, which dies with whoever started this

   LOAD_FIELD in the environment is one more header field for the proxy; LOAD_OPENING names a file that is sent behind
   each CONNECT, as a hasty client does.

   PROXY is address:port, or "-" for straight to the origin, where a connection stands for a tunnel. HOST is what a
   proxy is asked for; without one it must be an address. The works:

       tunnels   CONNECT, 200, close, COUNT at a time      gets   plain GET of SIZE octets on COUNT connections
       echoes    SIZE octets there and back, on COUNT      fresh  the same, each with a connection of its own
       up, down  bulk through COUNT tunnels                fetch  one such GET on each connection, and no more
       idle      COUNT silent tunnels until stdin ends     store  a POST of SIZE octets instead

   Every octet that comes back is compared, and what is wrong is counted, never retried in silence. An operation
   counts if it ended in time; one that began and did not end within GRACE more seconds is an error ("stalled"). */

#include "both.h"
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum {
    AT_ONCE = 32,         /* links that are being opened while the clock does not run yet */
    MOST_LINKS = 8192,
    MOST_ERRORS = 1000,   /* then the work ends early */
    MOST_SAMPLES = 1 << 20,
    PATIENCE = 20,        /* seconds for the next link to open */
    GRACE = 5,            /* seconds for what is under way when the time is up */
    IDLE_SECONDS = 3600,  /* at most */
};

unsigned char pattern[PERIOD + PIECE];
int poller;

enum work { TUNNELS, GETS, FRESH, FETCH, STORE, ECHOES, UP, DOWN, IDLE, WORKS };
static const char *const names[WORKS] = {"tunnels", "gets", "fresh", "fetch", "store", "echoes", "up", "down", "idle"};

struct link {
    int fd;                                                /* -1: retired */
    enum { CONNECTING, ASKING, OPEN, READING } state;
    uint32_t awaited;                                      /* epoll events */
    double began;                                          /* the operation in hand */
    uint64_t position;                                     /* octets of a body or of bulk, sent or received */
    uint64_t rest;                                         /* octets of it that are still to be */
    int is_last;                                           /* whether the connection ends with the answer in hand */
    size_t heard;                                          /* octets of the answer in hand */
    char answer[HEAD + 1];
};

static enum work work;
static int proxied, count_of_links, size;
static double seconds;
static struct sockaddr_in first_hop;
static char request[4096];
static size_t request_length;

static struct link links[MOST_LINKS];
static enum { OPENING, RUNNING, ENDING } phase;
static int opened, opening, live, standing;
static double patience, start, deadline, finished;
static unsigned long long done, octets;
static unsigned errors;
static char first_error[160];
static uint32_t samples[MOST_SAMPLES]; /* nanoseconds an operation took; the first that fit */
static unsigned sampled;

static int opens_anew(void) { return work == TUNNELS || work == FRESH; }
static int asks_once(void) { return work == FETCH || work == STORE; }
static int asks_plainly(void) { return work == GETS || work == FRESH || asks_once(); }

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
    l->is_last = 0;
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
    if (phase == OPENING && l->state == OPEN) standing--;
    else if (phase == OPENING) opening--;
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
    int anew = opens_anew() || l->is_last;
    if (phase == ENDING || anew || asks_once()) retire(l);
    if (phase == ENDING || asks_once()) return;
    l->began = end;
    if (anew) open_link(l);
    else begin(l);
}

/* Begin an operation on a link that stands. */
static void begin(struct link *l) {
    switch (work) {
    case TUNNELS: complete(l); break;
    case GETS:
    case FRESH:
    case FETCH: say(l, request, request_length); break;
    case STORE:
        say(l, request, request_length);
        if (l->fd >= 0) await(l, EPOLLOUT);
        l->rest = (uint64_t)size;
        break;
    case ECHOES: say(l, pattern + done % PERIOD, (size_t)size); l->position = done % PERIOD; break;
    case UP: await(l, EPOLLIN | EPOLLOUT); l->rest = UINT64_MAX; break;
    default: await(l, EPOLLIN);
    }
}

static void stands(struct link *l) {
    l->state = OPEN;
    l->heard = 0;
    if (phase == OPENING) {
        patience = now() + PATIENCE;
        standing++;
        opening--;
        await(l, 0);
    } else begin(l);
}

static int is_good(const char *answer) {
    return strncmp(answer, "HTTP/1.1 200 ", 13) == 0 || strncmp(answer, "HTTP/1.0 200 ", 13) == 0;
}

/* What a CONNECT was answered. Only a source may have said more by now. */
static void hear_connect(struct link *l) {
    char *end = strstr(l->answer, "\r\n\r\n");
    if (l->heard >= 13 && !is_good(l->answer)) {
        fail(l, "CONNECT was answered %.*s", (int)strcspn(l->answer, "\r\n"), l->answer);
    } else if (end != NULL) {
        size_t more = l->heard - (size_t)(end + 4 - l->answer);
        if (more > 0 && work != DOWN) fail(l, "octets that nobody sent");
        else if (!as_expected(end + 4, more, &l->position)) fail(l, "wrong octets");
        else stands(l);
    }
}

static void hear_body(struct link *l, const void *more, size_t count) {
    if (count > l->rest) fail(l, "octets that nobody sent");
    else if (!as_expected(more, count, &l->position)) fail(l, "wrong octets");
    else if ((l->rest -= count) == 0) {
        octets += l->position;
        l->state = OPEN;
        complete(l);
    }
}

static void hear_answer(struct link *l) {
    char *end = strstr(l->answer, "\r\n\r\n");
    if (end == NULL) return;
    char *length = strcasestr(l->answer, "\r\ncontent-length:");
    uint64_t wanted = work == STORE ? 0 : (uint64_t)size;
    if (!is_good(l->answer))
        fail(l, "a request was answered %.*s", (int)strcspn(l->answer, "\r\n"), l->answer);
    else if (length == NULL || length > end || strtoull(length + 17, NULL, 10) != wanted)
        fail(l, "a request was answered in another length");
    else {
        l->state = READING;
        if (work != STORE) l->position = 0;
        l->rest = wanted;
        char *close = strcasestr(l->answer, "\r\nconnection: close");
        l->is_last = l->answer[7] == '0' || (close != NULL && close < end);
        hear_body(l, end + 4, l->heard - (size_t)(end + 4 - l->answer));
    }
}

static void hear_echo(struct link *l) {
    if (l->heard > (size_t)size) fail(l, "octets that nobody sent");
    else if (l->heard == (size_t)size && memcmp(l->answer, pattern + l->position, (size_t)size) != 0)
        fail(l, "wrong octets");
    else if (l->heard == (size_t)size) complete(l);
}

static void hear(struct link *l) {
    ssize_t count = recv(l->fd, l->answer + l->heard, HEAD - l->heard, 0);
    if (would_block(count)) return;
    if (count <= 0) {
        fail(l, count == 0 ? "a connection ended early" : "a connection broke: %s", strerror(errno));
        return;
    }
    l->heard += (size_t)count;
    l->answer[l->heard] = '\0';
    if (l->state == ASKING) hear_connect(l);
    else if (asks_plainly()) hear_answer(l);
    else if (work == ECHOES) hear_echo(l);
    else fail(l, "octets that nobody sent");
}

static void pour(struct link *l) {
    ssize_t count = send(l->fd, pattern + l->position % PERIOD, l->rest < PIECE ? l->rest : PIECE, 0);
    if (count > 0) {
        l->position += (uint64_t)count;
        l->rest -= (uint64_t)count;
        if (l->rest == 0) await(l, EPOLLIN);
    } else if (!would_block(count)) fail(l, "a connection broke: %s", strerror(errno));
}

/* The sink says when it got another so many octets, so that what is only on its way does not count. */
static void hear_receipts(struct link *l) {
    ssize_t count = recv(l->fd, l->answer, HEAD, 0);
    if (count > 0) octets += (unsigned long long)count * RECEIPT;
    else if (!would_block(count)) fail(l, "a tunnel ended early");
}

static void drink(struct link *l) {
    static char piece[PIECE];
    ssize_t count = recv(l->fd, piece, sizeof piece, 0);
    if (would_block(count)) return;
    if (count <= 0) fail(l, "a connection ended early");
    else if (l->state == READING) hear_body(l, piece, (size_t)count);
    else if (!as_expected(piece, (size_t)count, &l->position)) fail(l, "wrong octets");
    else octets += (unsigned long long)count;
}

static void connected(struct link *l) {
    int error = 0;
    getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
    if (error != 0) fail(l, "connect: %s", strerror(error));
    else if (!proxied || asks_plainly()) stands(l);
    else {
        l->state = ASKING;
        say(l, request, request_length);
    }
}

static void attend(struct link *l) {
    if (l->state == CONNECTING) connected(l);
    else if (l->state == OPEN && phase == OPENING) fail(l, "a connection broke before its time");
    else if (l->state == OPEN && work == UP) {
        pour(l);
        if (l->fd >= 0) hear_receipts(l);
    } else if (l->state == OPEN && l->awaited == EPOLLOUT) pour(l);
    else if (l->state == READING || (l->state == OPEN && work == DOWN)) drink(l);
    else hear(l);
}

static void begin_all(void) {
    phase = RUNNING;
    if (!opens_anew()) errors += (unsigned)(count_of_links - opened);
    start = now();
    deadline = start + seconds;
    if (work == IDLE) {
        printf("standing %d\n", standing);
        fflush(stdout);
        deadline = start + IDLE_SECONDS;
        watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, NULL);
    }
    for (int i = 0; i < count_of_links; i++) {
        links[i].began = start;
        if (opens_anew()) open_link(&links[i]);
        else if (links[i].fd >= 0) begin(&links[i]);
    }
}

static void end_all(void) {
    phase = ENDING;
    finished = now();
    for (int i = 0; i < count_of_links; i++) {
        struct link *l = &links[i];
        if (l->fd >= 0 && l->state == OPEN && (work == UP || work == DOWN || work == IDLE)) retire(l);
    }
}

static void run(void) {
    patience = now() + PATIENCE;
    while (phase != ENDING || live > 0) {
        while (phase == OPENING && !opens_anew() && opened < count_of_links && opening < AT_ONCE) {
            opening++;
            open_link(&links[opened++]);
        }
        int all = opening == 0 && opened == count_of_links;
        if (phase == OPENING && (opens_anew() || all || now() > patience)) begin_all();
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

static double percentile(uint64_t per_mille) { return sampled ? samples[sampled * per_mille / 1000] / 1e3 : 0; }

static void report(void) {
    double took = finished - start;
    if (took < seconds && !asks_once()) took = seconds; /* who died early was slow, not fast */
    qsort(samples, sampled, sizeof *samples, by_value);
    printf("{\"done\": %llu, \"octets\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"errors\": %u, \"standing\": %d, \"first_error\": \"%s\"}\n",
           done, octets, took, percentile(500), percentile(990), percentile(999), errors, standing, first_error);
}

static void prepare(char **words) {
    const char *proxy = words[1];
    proxied = strcmp(proxy, "-") != 0;
    count_of_links = atoi(words[4]);
    size = atoi(words[5]);
    seconds = atof(words[6]);
    if (count_of_links < 1 || count_of_links > MOST_LINKS || size < 0) {
        fprintf(stderr, "load: COUNT is 1 to %d, SIZE at least 0\n", MOST_LINKS);
        exit(2);
    }
    const char *colon = strchr(proxy, ':');
    first_hop = proxied ? address(strndup(proxy, strcspn(proxy, ":")), colon == NULL ? 0 : atoi(colon + 1))
                        : address(words[2], atoi(words[3]));
    char *to = request, *end = request + sizeof request;
    if (!asks_plainly()) to += snprintf(to, end - to, "CONNECT %s:%s HTTP/1.1\r\n", words[2], words[3]);
    else if (!proxied) to += snprintf(to, end - to, "%s /%d HTTP/1.1\r\n", work == STORE ? "POST" : "GET", size);
    else
        to += snprintf(to, end - to, "%s http://%s:%s/%d HTTP/1.1\r\n", work == STORE ? "POST" : "GET", words[2], words[3],
                       size);
    to += snprintf(to, end - to, "Host: %s:%s\r\n", words[2], words[3]);
    if (work == STORE) to += snprintf(to, end - to, "Content-Type: text/plain\r\nContent-Length: %d\r\n", size);
    const char *field = getenv("LOAD_FIELD"), *opening = getenv("LOAD_OPENING");
    if (proxied && field != NULL) to += snprintf(to, end - to, "%s\r\n", field);
    to += snprintf(to, end - to, "\r\n");
    if (proxied && opening != NULL && !asks_plainly()) {
        FILE *file = fopen(opening, "rb");
        if (file == NULL) die(opening);
        to += fread(to, 1, (size_t)(end - to), file);
        fclose(file);
    }
    request_length = (size_t)(to - request);
    for (int i = 0; i < count_of_links; i++) links[i].fd = -1;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* survives exec */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files); /* as well */
    if (argc > 2 && strcmp(argv[1], "leash") == 0) {
        execvp(argv[2], argv + 2);
        die(argv[2]);
    }
    signal(SIGPIPE, SIG_IGN);
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
