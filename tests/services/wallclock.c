/* The time of day, moved by as many seconds as the file of MOVED_CLOCK says (eight bytes). What only passes stays. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset;
static int (*gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_clock(void)
{
    const char *path = getenv("MOVED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    offset = seen == MAP_FAILED ? NULL : (volatile int64_t *)seen;
}

int clock_gettime(clockid_t which, struct timespec *answer)
{
    if (!gettime)
        open_clock();
    int failed = gettime(which, answer);
    if (!failed && offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        answer->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict answer, void *restrict zone)
{
    struct timespec moment;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &moment);
    answer->tv_sec = moment.tv_sec;
    answer->tv_usec = moment.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *answer)
{
    struct timespec moment;
    clock_gettime(CLOCK_REALTIME, &moment);
    if (answer)
        *answer = moment.tv_sec;
    return moment.tv_sec;
}
