/* Records the file operations of a process below the folder $RECORDED, for benchmarks/power_loss.py.

   Each line of the file $RECORD is an operation with its arguments (paths, position and written data) in
   hexadecimal digits. Load the library with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;
static const char *top;
static ssize_t (*real_write)(int, const void *, size_t);

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int ready(void) {
    if (record < 0 && getenv("RECORD") && getenv("RECORDED")) {
        real_write = REAL(write);
        top = getenv("RECORDED");
        record = REAL(open)(getenv("RECORD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    return record >= 0;
}

/* Writes the absolute path of `path`, which is relative to `dir`, to `full`; returns 0 if it is not recorded. */
static int inside(int dir, const char *path, char *full) {
    char base[PATH_MAX], link[64];
    if (!ready() || !path) return 0;
    if (path[0] == '/') snprintf(full, PATH_MAX, "%s", path);
    else {
        if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return 0;
            base[n] = 0;
        }
        if (snprintf(full, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return strncmp(full, top, strlen(top)) == 0;
}

static int named(int fd, char *full) {
    char link[64];
    if (!ready() || fd == record) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, full, PATH_MAX - 1);
    if (n < 0) return 0;
    full[n] = 0;
    return strncmp(full, top, strlen(top)) == 0;
}

static void put(const char *operation, const char *first, const char *second, const void *data, size_t size) {
    size_t room = strlen(operation) + 2 * (strlen(first) + strlen(second) + size) + 8;
    char *line = malloc(room), *at = line;
    at += sprintf(at, "%s ", operation);
    for (const char *c = first; *c; c++) at += sprintf(at, "%02x", (unsigned char)*c);
    at += sprintf(at, "-");
    for (const char *c = second; *c; c++) at += sprintf(at, "%02x", (unsigned char)*c);
    at += sprintf(at, "-");
    for (size_t i = 0; i < size; i++) {
        static const char digits[] = "0123456789abcdef";
        *at++ = digits[((const unsigned char *)data)[i] >> 4];
        *at++ = digits[((const unsigned char *)data)[i] & 15];
    }
    *at++ = '\n';
    pthread_mutex_lock(&lock);
    for (char *from = line; from < at;) {
        ssize_t n = real_write(record, from, at - from);
        if (n <= 0) break;
        from += n;
    }
    pthread_mutex_unlock(&lock);
    free(line);
}

static int opened(int fd, int dir, const char *path, int flags, int existed) {
    char full[PATH_MAX];
    if (fd >= 0 && inside(dir, path, full)) {
        if ((flags & O_CREAT) && !existed) put("create", full, "", "", 0);
        else if (flags & O_TRUNC) put("truncate", full, "0", "", 0);
    }
    return fd;
}

static int exists(int dir, const char *path) {
    struct stat status;
    return fstatat(dir, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

#define OPEN(name, dirs, dir)                                                     \
    {                                                                             \
        mode_t mode = 0;                                                          \
        if (flags & (O_CREAT | O_TMPFILE)) {                                      \
            va_list more;                                                         \
            va_start(more, flags);                                                \
            mode = va_arg(more, mode_t);                                          \
            va_end(more);                                                         \
        }                                                                         \
        int there = exists(dir, path);                                            \
        return opened(REAL(name) dirs, dir, path, flags, there);                  \
    }
int open(const char *path, int flags, ...) OPEN(open, (path, flags, mode), AT_FDCWD)
int open64(const char *path, int flags, ...) OPEN(open64, (path, flags, mode), AT_FDCWD)
int openat(int dir, const char *path, int flags, ...) OPEN(openat, (dir, path, flags, mode), dir)
int openat64(int dir, const char *path, int flags, ...) OPEN(openat64, (dir, path, flags, mode), dir)

static void wrote(int fd, off_t at, const void *data, ssize_t n) {
    char full[PATH_MAX], place[32];
    if (n > 0 && named(fd, full)) {
        snprintf(place, sizeof place, "%lld", (long long)at);
        put("write", full, place, data, n);
    }
}

static off_t position(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *data, size_t size) {
    char full[PATH_MAX];
    off_t at = named(fd, full) ? position(fd) : 0;
    ssize_t n = REAL(write)(fd, data, size);
    wrote(fd, at, data, n);
    return n;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    ssize_t n = REAL(pwrite)(fd, data, size, at);
    wrote(fd, at, data, n);
    return n;
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return pwrite(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) {
        ssize_t n = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (n < 0) return sum ? sum : n;
        sum += n;
        if ((size_t)n < parts[i].iov_len) break;
    }
    return sum;
}
int ftruncate(int fd, off_t size) {
    char full[PATH_MAX], place[32];
    int code = REAL(ftruncate)(fd, size);
    snprintf(place, sizeof place, "%lld", (long long)size);
    if (code == 0 && named(fd, full)) put("truncate", full, place, "", 0);
    return code;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

#define SYNC(name)                                             \
    int name(int fd) {                                         \
        char full[PATH_MAX];                                   \
        int code = REAL(name)(fd);                             \
        if (code == 0 && named(fd, full)) put("sync", full, "", "", 0); \
        return code;                                           \
    }
SYNC(fsync)
SYNC(fdatasync)

static int moved(int code, int from, const char *old, int to, const char *new) {
    char first[PATH_MAX], second[PATH_MAX];
    if (code == 0 && inside(from, old, first) && inside(to, new, second)) put("rename", first, second, "", 0);
    return code;
}
int rename(const char *old, const char *new) {
    return moved(REAL(rename)(old, new), AT_FDCWD, old, AT_FDCWD, new);
}
int renameat(int from, const char *old, int to, const char *new) {
    return moved(REAL(renameat)(from, old, to, new), from, old, to, new);
}

static int gone(int code, int dir, const char *path) {
    char full[PATH_MAX];
    if (code == 0 && inside(dir, path, full)) put("remove", full, "", "", 0);
    return code;
}
int unlink(const char *path) { return gone(REAL(unlink)(path), AT_FDCWD, path); }
int unlinkat(int dir, const char *path, int flags) { return gone(REAL(unlinkat)(dir, path, flags), dir, path); }
int rmdir(const char *path) { return gone(REAL(rmdir)(path), AT_FDCWD, path); }

static int made(int code, int dir, const char *path) {
    char full[PATH_MAX];
    if (code == 0 && inside(dir, path, full)) put("folder", full, "", "", 0);
    return code;
}
int mkdir(const char *path, mode_t mode) { return made(REAL(mkdir)(path, mode), AT_FDCWD, path); }
int mkdirat(int dir, const char *path, mode_t mode) { return made(REAL(mkdirat)(dir, path, mode), dir, path); }
