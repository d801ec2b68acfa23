/* An LD_PRELOAD shim: fsync and fdatasync return no sooner than SLOW_FSYNC_MICROSECONDS after their call.
 *
 * These two are all that PostgreSQL (wal_sync_method=fdatasync), SQLite, Redis, MariaDB and MySQL wait for before they
 * call a write durable, as strace shows; sync_file_range is only a hint to begin writing, and none of them calls msync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int descriptor) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(descriptor), error = errno;
    const char *microseconds = getenv("SLOW_FSYNC_MICROSECONDS");
    if (microseconds) {
        long long nanoseconds = end.tv_nsec + atoll(microseconds) * 1000;
        end.tv_sec += nanoseconds / 1000000000;
        end.tv_nsec = nanoseconds % 1000000000;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR) {}
    }
    errno = error;
    return result;
}

int fsync(int descriptor) { return slowly("fsync", descriptor); }
int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
