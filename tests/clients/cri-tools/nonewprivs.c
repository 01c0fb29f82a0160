/* For the image of the conformance suite that checks no_new_privs; it is installed setuid root. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", (int)geteuid());
	return 0;
}
