/* Makes one call that changes a file fail, or be the last one of the process. Loaded by LD_PRELOAD.

   Calls are counted that change files below the folder that `watch` names: open for writing, write,
   rename, fsync, ftruncate and unlink. At the one with the number `at`, the process kills itself
   (before the call, after it, or in the middle of a write), or the call fails with an error code.

   With XFER_LOCKS=ignored or =refused in the environment, locks of files do nothing or fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, BEFORE, HALF, AFTER, FAIL };

static char folder[4096];
static long count, at;
static int what, code;

void watch(const char *path, long number, int kind, int error)
{
    snprintf(folder, sizeof folder, "%s", path);
    count = 0;
    at = number;
    what = kind;
    code = error;
}

long counted(void)
{
    return count;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_watched(const char *path)
{
    return *folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_open(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_watched(path);
}

/* Count a call; return what is to be done about it. A disk that is full stays so. */
static int next(int watched, int needs_space)
{
    int now = watched && ++count == at ? what : NOTHING;
    if (watched && what == FAIL && code == ENOSPC)
        now = needs_space && count >= at ? FAIL : NOTHING;
    if (now == BEFORE)
        die();
    if (now == FAIL)
        errno = code;
    return now;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP(type, name, parameters, arguments, watched)        \
    type name parameters                                        \
    {                                                           \
        int now = next(watched, 0);                             \
        if (now == FAIL)                                        \
            return -1;                                          \
        type result = REAL(name) arguments;                     \
        if (now == AFTER || now == HALF)                        \
            die();                                              \
        return result;                                          \
    }

#define WRAP_WRITE(name, parameters, whole, half)               \
    ssize_t name parameters                                     \
    {                                                           \
        int now = next(is_open(fd), 1);                         \
        if (now == FAIL)                                        \
            return -1;                                          \
        ssize_t result = now == HALF ? REAL(name) half : REAL(name) whole; \
        if (now == AFTER || now == HALF)                        \
            die();                                              \
        return result;                                          \
    }

WRAP_WRITE(write, (int fd, const void *from, size_t n), (fd, from, n), (fd, from, n / 2))
WRAP_WRITE(pwrite, (int fd, const void *from, size_t n, off_t to), (fd, from, n, to),
           (fd, from, n / 2, to))
WRAP_WRITE(pwrite64, (int fd, const void *from, size_t n, off64_t to), (fd, from, n, to),
           (fd, from, n / 2, to))
WRAP(int, fsync, (int fd), (fd), is_open(fd))
WRAP(int, fdatasync, (int fd), (fd), is_open(fd))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), is_open(fd))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), is_open(fd))
WRAP(int, rename, (const char *from, const char *to), (from, to), is_watched(to))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
     is_watched(to))
WRAP(int, unlink, (const char *path), (path), is_watched(path))

static int will_write(int flags)
{
    return flags & (O_WRONLY | O_RDWR | O_CREAT);
}

#define WRAP_OPEN(name, parameters, arguments)                  \
    int name parameters                                         \
    {                                                           \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                           \
        int now = next(will_write(flags) && is_watched(path), 1); \
        if (now == FAIL)                                        \
            return -1;                                          \
        int result = REAL(name) arguments;                      \
        if (now == AFTER || now == HALF)                        \
            die();                                              \
        return result;                                          \
    }

WRAP_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))

#define WRAP_LOCKS(name)                                        \
    int name(int fd, int command, ...)                          \
    {                                                           \
        va_list rest;                                           \
        va_start(rest, command);                                \
        void *argument = va_arg(rest, void *);                  \
        va_end(rest);                                           \
        const char *locks = getenv("XFER_LOCKS");               \
        if (locks && (command == F_SETLK || command == F_SETLKW)) { \
            errno = ENOLCK;                                     \
            return strcmp(locks, "ignored") ? -1 : 0;           \
        }                                                       \
        return REAL(name)(fd, command, argument);               \
    }

WRAP_LOCKS(fcntl)
WRAP_LOCKS(fcntl64)
