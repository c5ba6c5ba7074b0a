/* Loaded before the C library of the daemon under test: its database's disk fails as the file HEADGATE_TEST_DISK says.
   "sync": every sync fails, "full": every write, "read-only": every write, and no file opens for writing;
   "hold": a sync of the database itself, not of its log, takes until that is over, and HEADGATE_TEST_DISK.held says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int told(const char *what)
{
    const char *path = getenv("HEADGATE_TEST_DISK");
    char word[16] = "";
    static int (*real)(const char *, int, ...);
    if (!path)
        return 0;
    if (!real)
        real = dlsym(RTLD_NEXT, "open64");
    int file = real(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, word, sizeof word - 1);
    close(file);
    return length > 0 && strcmp(word, what) == 0;
}

static int is_database(int file)
{
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, "headgate.db") != NULL;
}

static int fails(int file, int sync)
{
    int error = 0, kept = errno;
    if (!is_database(file)) {
        errno = kept;
        return 0;
    }
    if (sync)
        error = told("sync") ? EIO : 0;
    else
        error = told("full") ? ENOSPC : told("read-only") ? EROFS : 0;
    errno = error ? error : kept;
    return error;
}

static void hold(int file)
{
    char link[64], path[1024], held[1024];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    size_t name = strlen("headgate.db");
    if (length > (ssize_t)name && strcmp(path + length - name, "headgate.db") == 0 && told("hold")) {
        snprintf(held, sizeof held, "%s.held", getenv("HEADGATE_TEST_DISK"));
        close(creat(held, 0600));
        while (told("hold"))
            usleep(5000);
    }
    errno = kept;
}

#define REAL(name) \
    static typeof(name) *real; \
    if (!real) \
        real = dlsym(RTLD_NEXT, #name)

int fsync(int file) { REAL(fsync); hold(file); return fails(file, 1) ? -1 : real(file); }
int fdatasync(int file) { REAL(fdatasync); hold(file); return fails(file, 1) ? -1 : real(file); }
ssize_t write(int file, const void *from, size_t size) { REAL(write); return fails(file, 0) ? -1 : real(file, from, size); }
ssize_t pwrite(int file, const void *from, size_t size, off_t at) { REAL(pwrite); return fails(file, 0) ? -1 : real(file, from, size, at); }
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) { REAL(pwrite64); return fails(file, 0) ? -1 : real(file, from, size, at); }

static int opens(const char *name, const char *path, int flags, mode_t mode)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    if (strstr(path, "headgate.db") && (flags & (O_WRONLY | O_RDWR)) && told("read-only")) {
        errno = EROFS;
        return -1;
    }
    return real(path, flags, mode);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opens(#name, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
