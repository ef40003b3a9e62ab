/* A stand-in for the nonewprivs image: setuid root, it tells whether that helped. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("Effective uid: %d\n", (int)geteuid());
    return 0;
}
