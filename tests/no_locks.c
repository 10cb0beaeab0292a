/* A library to preload that makes every lock of a process an error, as on a file system without locks, or never answers.
 *
 * The variable DOVETAIL_FLOCK has the number of the error; 0 stands for a server that does not answer.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int flock(int descriptor, int operation) {
    (void)descriptor;
    (void)operation;
    const char *error = getenv("DOVETAIL_FLOCK");
    int number = error == NULL ? ENOSYS : atoi(error);
    while (number == 0)
        pause();
    errno = number;
    return -1;
}
