/* Which call is struck, and what happens at it; see preload.c.
 *
 * Calls are counted by their kind if they concern a file under one folder, or create a thread. At the call of a chosen
 * number it returns an error, or the process is sent SIGKILL or SIGINT. What to do, and what has happened, stands in a
 * `struct faults` that the process shares with the one that watches it: tests/faults/preload.py has the same structure.
 * The kernel is called directly here, so that the library never counts itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EACH_KIND(KIND)                                                                                                \
    KIND(open) KIND(create) KIND(read) KIND(write) KIND(fsync) KIND(rename) KIND(stat) KIND(lstat) KIND(fstat)         \
    KIND(opendir) KIND(readdir) KIND(unlink) KIND(rmdir) KIND(close) KIND(mkdir) KIND(truncate) KIND(copy) KIND(map)   \
    KIND(populate) KIND(lock) KIND(thread) KIND(link) KIND(readlink) KIND(utime) KIND(statvfs) KIND(advise)            \
    KIND(access) KIND(change)

#define CONSTANT(name) OF_##name,
enum kind { EACH_KIND(CONSTANT) KINDS };

#define NAME(name) #name " "
const char dovetail_fault_kinds[512] = EACH_KIND(NAME);

enum action { FAIL, KILL, INTERRUPT, TEAR };

struct faults {
    int64_t armed;          /* whether calls are counted */
    int64_t kind;           /* the kind that is struck; -1 for any */
    int64_t number;         /* the call that is struck, from 1 on; 0 for none */
    int64_t action;         /* what happens */
    int64_t error;          /* errno of a failure */
    int64_t lasting;        /* whether all later calls of the kind fail as well */
    int64_t struck;         /* how many calls were struck */
    int64_t total;          /* calls of all kinds */
    int64_t counts[32];     /* calls of each kind */
    char root[512];         /* the folder */
    char call[32];          /* the call that was struck first */
    char path[512];         /* what it concerned */
};

static struct faults none;
static struct faults *faults = &none;

/* Take the structure at an address, or no longer any. */
void dovetail_faults_use(struct faults *given) { faults = given ? given : &none; }

/* A process that starts anew finds the structure in a file. */
__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("DOVETAIL_FAULTS");
    if (name == NULL)
        return;
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC, 0);
    if (descriptor < 0)
        return;
    void *found = (void *)syscall(SYS_mmap, NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    syscall(SYS_close, descriptor);
    if (found != MAP_FAILED)
        faults = found;
}

/* Write the path that a descriptor stands for; an empty text if there is none. */
static void path_of(int descriptor, char *text, size_t size) {
    char link[64];
    ssize_t length;
    snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", descriptor);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, text, size - 1);
    text[length < 0 ? 0 : length] = 0;
}

static void join(int folder, const char *name, char *text, size_t size) {
    if (name[0] == '/') {
        snprintf(text, size, "%s", name);
        return;
    }
    path_of(folder, text, size);
    size_t length = strlen(text);
    snprintf(text + length, size - length, "/%s", name);
}

static int is_inside(const char *path) {
    size_t length = strlen(faults->root);
    return strncmp(path, faults->root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Whether a call of a kind can change what is on the disk. */
static int changes(enum kind kind) {
    return kind == OF_create || kind == OF_write || kind == OF_fsync || kind == OF_rename || kind == OF_unlink || kind == OF_rmdir ||
           kind == OF_mkdir || kind == OF_truncate || kind == OF_copy || kind == OF_link || kind == OF_utime;
}

/* Count a call, and do what is to be done: returns whether the call fails, and then errno is set. */
static int count(enum kind kind, const char *call, const char *path, int *torn) {
    struct faults *now = faults;
    int64_t of_change = changes(kind) ? __atomic_add_fetch(&now->counts[OF_change], 1, __ATOMIC_SEQ_CST) : 0;
    int64_t of_kind = __atomic_add_fetch(&now->counts[kind], 1, __ATOMIC_SEQ_CST);
    int64_t of_all = __atomic_add_fetch(&now->total, 1, __ATOMIC_SEQ_CST);
    int64_t reached = now->kind < 0 ? of_all : now->kind == OF_change ? of_change : now->kind == kind ? of_kind : 0;
    if (now->number == 0 || (reached != now->number && !(now->lasting && reached > now->number)))
        return 0;
    if (__atomic_add_fetch(&now->struck, 1, __ATOMIC_SEQ_CST) == 1) {
        snprintf(now->call, sizeof now->call, "%s", call);
        snprintf(now->path, sizeof now->path, "%s", path);
    }
    switch (now->action) {
    case FAIL:
        errno = (int)now->error;
        return 1;
    case INTERRUPT:
        syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGINT);
        return 0;
    case TEAR:
        if (torn != NULL) {
            *torn = 1;
            return 0;
        }
        /* fall through */
    default:
        syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
        for (;;)
            syscall(SYS_pause);
    }
}

static int at_path(enum kind kind, const char *call, int folder, const char *name) {
    char text[PATH_MAX];
    if (!faults->armed || name == NULL)
        return 0;
    join(folder, name, text, sizeof text);
    return is_inside(text) && count(kind, call, text, NULL);
}

static int at_descriptor(enum kind kind, const char *call, int descriptor, int *torn) {
    char text[PATH_MAX];
    if (!faults->armed || descriptor < 0)
        return 0;
    path_of(descriptor, text, sizeof text);
    return is_inside(text) && count(kind, call, text, torn);
}
