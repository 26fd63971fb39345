/*
 * Calls of the kernel that fail when they are told to, and a wall clock that says what it is told to: an LD_PRELOAD
 * library (ld.so(8)) for a proxyd under test. What is told stands in a file that all processes map: `faulty.py` writes
 * it. Nothing is told by default, and then each call is the system's own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum call { SOCKET, CONNECT, ACCEPT, SEND, RECV, FILL, DRAIN, PIPE, WATCH, WAIT, CALLS };

/* peer: the IPv4 address at the other end, in the order of the network; 0 for any, and where there is none to see. */
struct fault {
    int64_t error, left, peer, called, failed;
};

/* pid: the only process that anything fails in; 0 for all. ahead: seconds that the wall clock is ahead. */
struct told {
    int64_t pid, ahead;
    struct fault of[CALLS];
};

static struct told nothing;
static struct told *told = &nothing;

__attribute__((constructor)) static void map_what_is_told(void)
{
    const char *path = getenv("PROXYD_TESTS_FAULTS");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        abort(); /* a fault that does not happen would be passed by everybody */
    told = shared;
    close(fd);
}

static int leads_to(const struct sockaddr *where, int64_t peer)
{
    return where->sa_family == AF_INET && ((const struct sockaddr_in *)where)->sin_addr.s_addr == (uint32_t)peer;
}

static int is_connected(int fd)
{
    struct sockaddr_storage where;
    socklen_t size = sizeof where;
    return getpeername(fd, (struct sockaddr *)&where, &size) == 0;
}

static int is_connected_to(int fd, int64_t peer)
{
    struct sockaddr_storage where;
    socklen_t size = sizeof where;
    return getpeername(fd, (struct sockaddr *)&where, &size) == 0 && leads_to((struct sockaddr *)&where, peer);
}

/* Whether a call is to fail; it is counted. Then errno is what it fails with. */
static int fails(enum call call, int concerned)
{
    struct fault *fault = &told->of[call];
    __atomic_add_fetch(&fault->called, 1, __ATOMIC_RELAXED);
    if (!concerned || __atomic_load_n(&fault->left, __ATOMIC_ACQUIRE) <= 0 || (told->pid && told->pid != getpid()))
        return 0;
    if (__atomic_fetch_sub(&fault->left, 1, __ATOMIC_ACQ_REL) <= 0)
        return 0; /* somebody else had the last one */
    __atomic_add_fetch(&fault->failed, 1, __ATOMIC_RELAXED);
    errno = (int)fault->error;
    return 1;
}

/* Whether a call on a connection is to fail. Who is at its other end is looked at only where that matters. */
static int fails_on(enum call call, int fd)
{
    int64_t left = told->of[call].left, peer = told->of[call].peer;
    return fails(call, left > 0 && (!peer || is_connected_to(fd, peer)));
}

#define ITS_OWN(name) ((__typeof__(&name))its_own(#name))
#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = ITS_OWN(name); real; })

static void *its_own(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

int socket(int domain, int type, int protocol)
{
    return fails(SOCKET, domain != AF_UNIX) ? -1 : REAL(socket)(domain, type, protocol);
}

int connect(int fd, const struct sockaddr *where, socklen_t size)
{
    int64_t peer = told->of[CONNECT].peer;
    return fails(CONNECT, !peer || leads_to(where, peer)) ? -1 : REAL(connect)(fd, where, size);
}

int accept4(int fd, struct sockaddr *where, socklen_t *size, int flags)
{
    return fails(ACCEPT, 1) ? -1 : REAL(accept4)(fd, where, size, flags);
}

ssize_t send(int fd, const void *octets, size_t count, int flags)
{
    return fails_on(SEND, fd) ? -1 : REAL(send)(fd, octets, count, flags);
}

ssize_t recv(int fd, void *octets, size_t count, int flags)
{
    return fails_on(RECV, fd) ? -1 : REAL(recv)(fd, octets, count, flags);
}

ssize_t splice(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags)
{
    int refused = is_connected(in) ? fails_on(FILL, in) : fails_on(DRAIN, out);
    return refused ? -1 : REAL(splice)(in, from, out, to, count, flags);
}

int pipe2(int pipe[2], int flags)
{
    return fails(PIPE, 1) ? -1 : REAL(pipe2)(pipe, flags);
}

/* Only what is new takes memory: to change what is watched already cannot fail. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return operation == EPOLL_CTL_ADD && fails_on(WATCH, fd) ? -1 : REAL(epoll_ctl)(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int milliseconds)
{
    return fails(WAIT, 1) ? -1 : REAL(epoll_wait)(epoll, events, most, milliseconds);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = REAL(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += told->ahead;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int result = REAL(gettimeofday)(now, zone);
    now->tv_sec += told->ahead;
    return result;
}

time_t time(time_t *kept)
{
    time_t now = REAL(time)(NULL) + told->ahead;
    if (kept != NULL)
        *kept = now;
    return now;
}
