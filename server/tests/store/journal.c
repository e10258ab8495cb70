/* Records what a process does to the files beneath $JOURNAL_DIR, in one order, into the file $JOURNAL, together
 * with what it writes to standard output. Preloaded into a process by power_cut.rs, which replays it.
 *
 * One lock is held around each call and its record, so that the order of records is the order of effects, and
 * an fsync covers exactly the writes that are recorded before it. sync_file_range is deliberately left alone:
 * it promises nothing after a power cut.
 *
 * A record: op (1 byte), length of the path (2), offset (8), length of the data (4), path, data; little-endian.
 *   C path          created            W path off data  written        S path off   truncated to off
 *   F path          fsync, fdatasync   R path data      renamed to     U path       unlinked
 *   D path          directory made     A data           written to standard output
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static const char *watched;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("JOURNAL");
    watched = getenv("JOURNAL_DIR");
    if (path && watched)
        journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t written = syscall(SYS_write, journal, at, length);
        if (written <= 0)
            abort(); /* a journal with a hole would prove anything */
        at += written;
        length -= (size_t)written;
    }
}

static void record(char op, const char *path, uint64_t offset, const void *data, uint32_t length)
{
    uint16_t path_length = (uint16_t)strlen(path);
    put(&op, 1);
    put(&path_length, 2);
    put(&offset, 8);
    put(&length, 4);
    put(path, path_length);
    put(data, length);
}

static int is_watched(const char *path)
{
    return journal >= 0 && path[0] == '/' && strncmp(path, watched, strlen(watched)) == 0;
}

static int path_of(int fd, char *path, size_t size)
{
    char link[64];
    if (journal < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return is_watched(path);
}

static int open_recorded(int dir, const char *path, int flags, mode_t mode)
{
    if (!is_watched(path) || !(flags & (O_CREAT | O_TRUNC)))
        return (int)syscall(SYS_openat, dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    int there = access(path, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && !there)
        record('C', path, 0, "", 0);
    if (fd >= 0 && there && (flags & O_TRUNC))
        record('S', path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                      \
    int name(const char *path, int flags, ...)          \
    {                                                   \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode_t mode = va_arg(rest, mode_t);             \
        va_end(rest);                                   \
        return open_recorded(AT_FDCWD, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

static ssize_t write_recorded(int fd, const void *data, size_t length, off64_t at)
{
    char path[4096];
    int output = fd == 1 && journal >= 0;
    if (!output && !path_of(fd, path, sizeof path))
        return at < 0 ? syscall(SYS_write, fd, data, length) : syscall(SYS_pwrite64, fd, data, length, at);
    pthread_mutex_lock(&lock);
    off64_t offset = at < 0 && !output ? lseek64(fd, 0, SEEK_CUR) : at;
    ssize_t written =
        at < 0 ? syscall(SYS_write, fd, data, length) : syscall(SYS_pwrite64, fd, data, length, at);
    if (written > 0)
        record(output ? 'A' : 'W', output ? "" : path, output ? 0 : (uint64_t)offset, data, (uint32_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int fd, const void *data, size_t length) { return write_recorded(fd, data, length, -1); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return write_recorded(fd, data, length, at); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return write_recorded(fd, data, length, at); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return count > 0 ? write_recorded(fd, parts[0].iov_base, parts[0].iov_len, -1) : 0;
}

static int truncate_recorded(int fd, off64_t length)
{
    char path[4096];
    int watching = path_of(fd, path, sizeof path);
    pthread_mutex_lock(&lock);
    int answer = (int)syscall(SYS_ftruncate, fd, length);
    if (answer == 0 && watching)
        record('S', path, (uint64_t)length, "", 0);
    pthread_mutex_unlock(&lock);
    return answer;
}

int ftruncate(int fd, off_t length) { return truncate_recorded(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_recorded(fd, length); }

static int sync_recorded(int fd, long call)
{
    char path[4096];
    int watching = path_of(fd, path, sizeof path);
    pthread_mutex_lock(&lock);
    int answer = (int)syscall(call, fd);
    if (answer == 0 && watching)
        record('F', path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return answer;
}

int fsync(int fd) { return sync_recorded(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_recorded(fd, SYS_fdatasync); }

int rename(const char *from, const char *to)
{
    pthread_mutex_lock(&lock);
    int answer = REAL(rename)(from, to);
    if (answer == 0 && is_watched(from))
        record('R', from, 0, to, (uint32_t)strlen(to));
    pthread_mutex_unlock(&lock);
    return answer;
}

int unlink(const char *path)
{
    pthread_mutex_lock(&lock);
    int answer = REAL(unlink)(path);
    if (answer == 0 && is_watched(path))
        record('U', path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return answer;
}

int mkdir(const char *path, mode_t mode)
{
    pthread_mutex_lock(&lock);
    int answer = REAL(mkdir)(path, mode);
    if (answer == 0 && is_watched(path))
        record('D', path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return answer;
}
