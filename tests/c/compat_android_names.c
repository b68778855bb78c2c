/* The declarations of the C part of libwg-go.so, and our header: a compiler refuses declarations that differ. */
#include "compat/android.h"

#include <stddef.h>

#ifdef DIFFERS /* That this would be noticed. */
typedef long fd_t;
#else
typedef int fd_t;
#endif

int wgTurnOn(struct go_string ifname, fd_t tun_fd, struct go_string settings);
void wgTurnOff(int handle);
int wgGetSocketV4(int handle);
int wgGetSocketV6(int handle);
char *wgGetConfig(int handle);
char *wgVersion(void);

#define IS(member, type) _Generic(&((struct go_string *)0)->member, type *: 1, default: 0)
_Static_assert(IS(str, const char *) && IS(n, long), "the members of a text of Go");
_Static_assert(offsetof(struct go_string, str) == 0 && offsetof(struct go_string, n) == sizeof(char *), "and their places");
_Static_assert(sizeof(struct go_string) == sizeof(char *) + sizeof(long), "which are all");
