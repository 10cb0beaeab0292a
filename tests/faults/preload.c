/* A library to preload that fails, kills or interrupts the process at a chosen call of the C library.
 *
 * Each function below takes the place of the C library's own of the same name: it asks `preload.h` whether this is the
 * call, and calls the function whose place it has taken. Python's programs use the names for 64-bit offsets; both names
 * are here where the C library has both.
 */
#include "preload.h"

static void *find(void **place, const char *name) {
    if (*place == NULL)
        *place = dlsym(RTLD_NEXT, name);
    return *place;
}

#define REAL(type, name, ...)                                                                                          \
    static void *place_;                                                                                               \
    type (*real)(__VA_ARGS__) = (type(*)(__VA_ARGS__))find(&place_, #name)

/* ---- open */

#define MODE(flags, mode)                                                                                              \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

#define OPENING(flags) ((flags) & O_CREAT ? OF_create : OF_open)

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, name, const char *, int, ...);                                                                       \
        MODE(flags, mode)                                                                                              \
        return at_path(OPENING(flags), #name, AT_FDCWD, path) ? -1 : real(path, flags, mode);                                    \
    }
#define OPENS_AT(name)                                                                                                 \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(int, name, int, const char *, int, ...);                                                                  \
        MODE(flags, mode)                                                                                              \
        return at_path(OPENING(flags), #name, folder, path) ? -1 : real(folder, path, flags, mode);                              \
    }
#define OPENS_STREAM(name)                                                                                             \
    FILE *name(const char *path, const char *mode) {                                                                   \
        REAL(FILE *, name, const char *, const char *);                                                                \
        return at_path(mode[0] == 'r' ? OF_open : OF_create, #name, AT_FDCWD, path) ? NULL : real(path, mode);                                         \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
OPENS_STREAM(fopen)
OPENS_STREAM(fopen64)

/* ---- calls on a descriptor that return -1 */

#define ON_DESCRIPTOR(kind, type, name, parameters, arguments, types)                                                  \
    type name parameters {                                                                                             \
        REAL(type, name, types);                                                                                       \
        return at_descriptor(kind, #name, descriptor, NULL) ? (type)-1 : real arguments;                               \
    }
#define TYPES(...) __VA_ARGS__

ON_DESCRIPTOR(OF_read, ssize_t, read, (int descriptor, void *to, size_t size), (descriptor, to, size), TYPES(int, void *, size_t))
ON_DESCRIPTOR(OF_read, ssize_t, pread, (int descriptor, void *to, size_t size, off_t at), (descriptor, to, size, at),
              TYPES(int, void *, size_t, off_t))
ON_DESCRIPTOR(OF_read, ssize_t, pread64, (int descriptor, void *to, size_t size, off64_t at), (descriptor, to, size, at),
              TYPES(int, void *, size_t, off64_t))
ON_DESCRIPTOR(OF_read, ssize_t, readv, (int descriptor, const struct iovec *to, int count_), (descriptor, to, count_),
              TYPES(int, const struct iovec *, int))
ON_DESCRIPTOR(OF_fsync, int, fsync, (int descriptor), (descriptor), TYPES(int))
ON_DESCRIPTOR(OF_fsync, int, fdatasync, (int descriptor), (descriptor), TYPES(int))
ON_DESCRIPTOR(OF_fsync, int, sync_file_range, (int descriptor, off64_t at, off64_t size, unsigned how),
              (descriptor, at, size, how), TYPES(int, off64_t, off64_t, unsigned))
ON_DESCRIPTOR(OF_fstat, int, fstat, (int descriptor, struct stat *to), (descriptor, to), TYPES(int, struct stat *))
ON_DESCRIPTOR(OF_fstat, int, fstat64, (int descriptor, struct stat64 *to), (descriptor, to), TYPES(int, struct stat64 *))
ON_DESCRIPTOR(OF_truncate, int, ftruncate, (int descriptor, off_t size), (descriptor, size), TYPES(int, off_t))
ON_DESCRIPTOR(OF_truncate, int, ftruncate64, (int descriptor, off64_t size), (descriptor, size), TYPES(int, off64_t))
ON_DESCRIPTOR(OF_truncate, int, fallocate, (int descriptor, int how, off_t at, off_t size), (descriptor, how, at, size),
              TYPES(int, int, off_t, off_t))
ON_DESCRIPTOR(OF_truncate, int, fallocate64, (int descriptor, int how, off64_t at, off64_t size),
              (descriptor, how, at, size), TYPES(int, int, off64_t, off64_t))
ON_DESCRIPTOR(OF_lock, int, flock, (int descriptor, int how), (descriptor, how), TYPES(int, int))
ON_DESCRIPTOR(OF_statvfs, int, fstatvfs, (int descriptor, struct statvfs *to), (descriptor, to), TYPES(int, struct statvfs *))
ON_DESCRIPTOR(OF_statvfs, int, fstatvfs64, (int descriptor, struct statvfs64 *to), (descriptor, to),
              TYPES(int, struct statvfs64 *))
ON_DESCRIPTOR(OF_utime, int, futimens, (int descriptor, const struct timespec to[2]), (descriptor, to),
              TYPES(int, const struct timespec *))
ON_DESCRIPTOR(OF_copy, ssize_t, sendfile, (int descriptor, int from, off_t *at, size_t size), (descriptor, from, at, size),
              TYPES(int, int, off_t *, size_t))
ON_DESCRIPTOR(OF_copy, ssize_t, sendfile64, (int descriptor, int from, off64_t *at, size_t size),
              (descriptor, from, at, size), TYPES(int, int, off64_t *, size_t))

ssize_t copy_file_range(int from, off64_t *at, int descriptor, off64_t *to, size_t size, unsigned how) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    return at_descriptor(OF_copy, "copy_file_range", descriptor, NULL) ? -1 : real(from, at, descriptor, to, size, how);
}

/* Writing may be torn: half of the bytes are written, and then the process is killed. */
#define WRITES(name, parameters, whole, half)                                                                          \
    ssize_t name parameters {                                                                                          \
        int torn = 0;                                                                                                  \
        if (at_descriptor(OF_write, #name, descriptor, &torn))                                                            \
            return -1;                                                                                                 \
        if (torn) {                                                                                                    \
            half;                                                                                                      \
            syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);                                                    \
        }                                                                                                              \
        return whole;                                                                                                  \
    }
static ssize_t next_write(int descriptor, const void *from, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real(descriptor, from, size);
}
static ssize_t next_pwrite(int descriptor, const void *from, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return real(descriptor, from, size, at);
}
static ssize_t next_writev(int descriptor, const struct iovec *from, int count_) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return real(descriptor, from, count_);
}
WRITES(write, (int descriptor, const void *from, size_t size), next_write(descriptor, from, size),
       next_write(descriptor, from, size / 2))
WRITES(pwrite, (int descriptor, const void *from, size_t size, off_t at), next_pwrite(descriptor, from, size, at),
       next_pwrite(descriptor, from, size / 2, at))
WRITES(pwrite64, (int descriptor, const void *from, size_t size, off64_t at), next_pwrite(descriptor, from, size, at),
       next_pwrite(descriptor, from, size / 2, at))
WRITES(writev, (int descriptor, const struct iovec *from, int count_), next_writev(descriptor, from, count_),
       next_writev(descriptor, from, count_ / 2))

/* The descriptor is closed even if the call fails, as the kernel does it. */
int close(int descriptor) {
    int failed = at_descriptor(OF_close, "close", descriptor, NULL), error = errno;
    int done = (int)syscall(SYS_close, descriptor);
    if (!failed)
        return done;
    errno = error;
    return -1;
}

int posix_fallocate(int descriptor, off_t at, off_t size) {
    REAL(int, posix_fallocate, int, off_t, off_t);
    return at_descriptor(OF_truncate, "posix_fallocate", descriptor, NULL) ? errno : real(descriptor, at, size);
}

int posix_fallocate64(int descriptor, off64_t at, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    return at_descriptor(OF_truncate, "posix_fallocate64", descriptor, NULL) ? errno : real(descriptor, at, size);
}

int posix_fadvise(int descriptor, off_t at, off_t size, int how) {
    REAL(int, posix_fadvise, int, off_t, off_t, int);
    return at_descriptor(OF_advise, "posix_fadvise", descriptor, NULL) ? errno : real(descriptor, at, size, how);
}

int posix_fadvise64(int descriptor, off64_t at, off64_t size, int how) {
    REAL(int, posix_fadvise64, int, off64_t, off64_t, int);
    return at_descriptor(OF_advise, "posix_fadvise64", descriptor, NULL) ? errno : real(descriptor, at, size, how);
}

#define FCNTLS(name)                                                                                                   \
    int name(int descriptor, int command, ...) {                                                                       \
        REAL(int, name, int, int, ...);                                                                                \
        va_list rest;                                                                                                  \
        va_start(rest, command);                                                                                       \
        void *argument = va_arg(rest, void *);                                                                         \
        va_end(rest);                                                                                                  \
        int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;    \
        return locks && at_descriptor(OF_lock, #name, descriptor, NULL) ? -1 : real(descriptor, command, argument);       \
    }
FCNTLS(fcntl)
FCNTLS(fcntl64)

/* ---- calls on paths that return -1 */

#define ON_PATH(kind, type, name, parameters, arguments, types)                                                        \
    type name parameters {                                                                                             \
        REAL(type, name, types);                                                                                       \
        return at_path(kind, #name, AT_FDCWD, path) ? (type)-1 : real arguments;                                       \
    }
#define ON_PATH_AT(kind, type, name, parameters, arguments, types)                                                     \
    type name parameters {                                                                                             \
        REAL(type, name, types);                                                                                       \
        return at_path(kind, #name, folder, path) ? (type)-1 : real arguments;                                         \
    }

ON_PATH(OF_stat, int, stat, (const char *path, struct stat *to), (path, to), TYPES(const char *, struct stat *))
ON_PATH(OF_stat, int, stat64, (const char *path, struct stat64 *to), (path, to), TYPES(const char *, struct stat64 *))
ON_PATH(OF_lstat, int, lstat, (const char *path, struct stat *to), (path, to), TYPES(const char *, struct stat *))
ON_PATH(OF_lstat, int, lstat64, (const char *path, struct stat64 *to), (path, to), TYPES(const char *, struct stat64 *))
ON_PATH_AT(how & AT_SYMLINK_NOFOLLOW ? OF_lstat : OF_stat, int, fstatat,
           (int folder, const char *path, struct stat *to, int how), (folder, path, to, how),
           TYPES(int, const char *, struct stat *, int))
ON_PATH_AT(how & AT_SYMLINK_NOFOLLOW ? OF_lstat : OF_stat, int, fstatat64,
           (int folder, const char *path, struct stat64 *to, int how), (folder, path, to, how),
           TYPES(int, const char *, struct stat64 *, int))
ON_PATH_AT(how & AT_SYMLINK_NOFOLLOW ? OF_lstat : OF_stat, int, statx,
           (int folder, const char *path, int how, unsigned mask, struct statx *to), (folder, path, how, mask, to),
           TYPES(int, const char *, int, unsigned, struct statx *))
ON_PATH(OF_unlink, int, unlink, (const char *path), (path), TYPES(const char *))
ON_PATH_AT(how & AT_REMOVEDIR ? OF_rmdir : OF_unlink, int, unlinkat, (int folder, const char *path, int how),
           (folder, path, how), TYPES(int, const char *, int))
ON_PATH(OF_rmdir, int, rmdir, (const char *path), (path), TYPES(const char *))
ON_PATH(OF_mkdir, int, mkdir, (const char *path, mode_t mode), (path, mode), TYPES(const char *, mode_t))
ON_PATH_AT(OF_mkdir, int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode),
           TYPES(int, const char *, mode_t))
ON_PATH(OF_truncate, int, truncate, (const char *path, off_t size), (path, size), TYPES(const char *, off_t))
ON_PATH(OF_truncate, int, truncate64, (const char *path, off64_t size), (path, size), TYPES(const char *, off64_t))
ON_PATH(OF_readlink, ssize_t, readlink, (const char *path, char *to, size_t size), (path, to, size),
        TYPES(const char *, char *, size_t))
ON_PATH_AT(OF_readlink, ssize_t, readlinkat, (int folder, const char *path, char *to, size_t size), (folder, path, to, size),
           TYPES(int, const char *, char *, size_t))
ON_PATH(OF_statvfs, int, statvfs, (const char *path, struct statvfs *to), (path, to), TYPES(const char *, struct statvfs *))
ON_PATH(OF_statvfs, int, statvfs64, (const char *path, struct statvfs64 *to), (path, to),
        TYPES(const char *, struct statvfs64 *))
ON_PATH(OF_access, int, access, (const char *path, int how), (path, how), TYPES(const char *, int))
ON_PATH_AT(OF_access, int, faccessat, (int folder, const char *path, int mode, int how), (folder, path, mode, how),
           TYPES(int, const char *, int, int))
ON_PATH_AT(OF_utime, int, utimensat, (int folder, const char *path, const struct timespec to[2], int how),
           (folder, path, to, how), TYPES(int, const char *, const struct timespec *, int))

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return at_path(OF_rename, "rename", AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int folder, const char *from, int other, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return at_path(OF_rename, "renameat", other, to) ? -1 : real(folder, from, other, to);
}

int renameat2(int folder, const char *from, int other, const char *to, unsigned how) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return at_path(OF_rename, "renameat2", other, to) ? -1 : real(folder, from, other, to, how);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    return at_path(OF_link, "link", AT_FDCWD, to) ? -1 : real(from, to);
}

int linkat(int folder, const char *from, int other, const char *to, int how) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return at_path(OF_link, "linkat", other, to) ? -1 : real(folder, from, other, to, how);
}

int symlink(const char *from, const char *to) {
    REAL(int, symlink, const char *, const char *);
    return at_path(OF_link, "symlink", AT_FDCWD, to) ? -1 : real(from, to);
}

int symlinkat(const char *from, int folder, const char *to) {
    REAL(int, symlinkat, const char *, int, const char *);
    return at_path(OF_link, "symlinkat", folder, to) ? -1 : real(from, folder, to);
}

/* ---- folders */

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    return at_path(OF_opendir, "opendir", AT_FDCWD, path) ? NULL : real(path);
}

DIR *fdopendir(int descriptor) {
    REAL(DIR *, fdopendir, int);
    return at_descriptor(OF_opendir, "fdopendir", descriptor, NULL) ? NULL : real(descriptor);
}

struct dirent *readdir(DIR *folder) {
    REAL(struct dirent *, readdir, DIR *);
    return at_descriptor(OF_readdir, "readdir", dirfd(folder), NULL) ? NULL : real(folder);
}

struct dirent64 *readdir64(DIR *folder) {
    REAL(struct dirent64 *, readdir64, DIR *);
    return at_descriptor(OF_readdir, "readdir64", dirfd(folder), NULL) ? NULL : real(folder);
}

/* ---- memory and threads */

#define MAPS(name, offset)                                                                                             \
    void *name(void *address, size_t size, int protection, int how, int descriptor, offset at) {                       \
        REAL(void *, name, void *, size_t, int, int, int, offset);                                                     \
        int failed = !(how & MAP_ANONYMOUS) && at_descriptor(OF_map, #name, descriptor, NULL);                            \
        return failed ? MAP_FAILED : real(address, size, protection, how, descriptor, at);                             \
    }
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)

#define POPULATE_READ 22

int madvise(void *address, size_t size, int how) {
    REAL(int, madvise, void *, size_t, int);
    if (how == POPULATE_READ && faults->armed && count(OF_populate, "madvise", "", NULL))
        return -1;
    return real(address, size, how);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*function)(void *), void *argument) {
    REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (faults->armed && count(OF_thread, "pthread_create", "", NULL))
        return errno;
    return real(thread, how, function, argument);
}
