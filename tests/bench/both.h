/* What both ends of the bench share: the pattern that all bodies are made of, and the poller. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PERIOD = 65521,       /* of the pattern that all bodies are made of: a prime, so that no lost block goes unseen */
    PIECE = 64 * 1024,    /* octets read or written at once in bulk */
    HEAD = 8192,          /* the longest head of a message */
    RECEIPT = 1 << 20,    /* octets that the sink acknowledges at once */
};

extern unsigned char pattern[PERIOD + PIECE];
extern int poller;

static inline void die(const char *what) {
    perror(what);
    exit(2);
}

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline struct sockaddr_in address(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "load: %s is no IPv4 address\n", host);
        exit(2);
    }
    return a;
}

static inline void without_delay(int fd) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static inline void watch(int operation, int fd, uint32_t events, void *who) {
    struct epoll_event e = {.events = events, .data.ptr = who};
    if (epoll_ctl(poller, operation, fd, &e) != 0) die("epoll_ctl");
}

static inline int would_block(ssize_t count) { return count < 0 && (errno == EAGAIN || errno == EINTR); }

/* Whether `count` octets are those of the pattern behind `*position` others; moves on. */
static inline int as_expected(const void *octets, size_t count, uint64_t *position) {
    int same = memcmp(octets, pattern + *position % PERIOD, count) == 0;
    *position += count;
    return same;
}

/* Serve at PORT (HTTP), +1 (echo), +2 (sink), +3 (source), for ever. */
void be_origin(const char *host, int port);
