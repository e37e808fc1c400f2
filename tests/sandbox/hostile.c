/* What a hostile program tries below the level of Python: each system call by its number, and a terminal.
 *
 *   hostile calls NUMBER:ARGUMENT...   each call with arguments that no kernel takes, a line each: "DONE" and the
 *                                      error, unless it is refused
 *   hostile sockets                    a socket of each family, a line each
 *   hostile type TEXT                  TEXT as if it had been typed on the terminal of whoever started this
 *   hostile x32                        a call by its second number
 *   hostile i386                       a call by the older door
 *   hostile clone3                     a new user namespace by the newer call
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int said(long answer) {
    if (answer < 0)
        printf("%s %s\n", errno == EPERM || errno == ENOSYS || errno == EAFNOSUPPORT ? "STOPPED" : "DONE", strerror(errno));
    else
        printf("DONE %ld\n", answer);
    return 0;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "calls")) {
        for (int at = 2; at < count; at++) {
            long with = atol(strchr(words[at], ':') + 1);
            said(syscall(atol(words[at]), with, with, with, with, with, with));
        }
        return 0;
    }
    if (!strcmp(what, "sockets")) {
        for (int family = 1; family < 46; family++)
            said(socket(family, SOCK_STREAM, 0));
        return 0;
    }
    if (!strcmp(what, "type")) {
        int terminal = open("/dev/tty", O_RDWR);
        for (const char *at = words[2]; *at; at++)
            if (ioctl(terminal < 0 ? 0 : terminal, TIOCSTI, at) < 0)
                return printf("STOPPED %s\n", strerror(errno)), 0;
        return printf("DONE\n"), 0;
    }
    if (!strcmp(what, "clone3")) {
        unsigned long long given[11] = {0x10000000ULL, 0, 0, 0, 17};
        long child = syscall(435, given, sizeof given);
        if (child == 0)
            _exit(0);
        if (child > 0)
            waitpid(child, NULL, 0);
        return said(child);
    }
#ifdef __x86_64__
    if (!strcmp(what, "x32"))
        return said(syscall(0x40000000L + SYS_getpid));
    if (!strcmp(what, "i386")) {
        long answer;
        __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20) : "memory");
        return printf("%s %ld\n", answer > 0 ? "DONE" : "STOPPED", answer), 0;
    }
#endif
    return 2;
}
