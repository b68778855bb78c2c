/* The declarations of the callers of Mullvad's libwg, and our header: a compiler refuses declarations that differ. */
#include <stdint.h>

#ifdef DIFFERS /* That this would be noticed. */
typedef const char *settings_t;
#else
typedef char *settings_t;
#endif

typedef void (*LogSink)(unsigned int level, const char *msg, uint64_t context);
#ifdef __ANDROID__
int32_t wgTurnOn(settings_t settings, int fd, LogSink log_sink, uint64_t log_context);
#else
int32_t wgTurnOn(intptr_t mtu, settings_t settings, int fd, LogSink log_sink, uint64_t log_context);
#endif
int32_t wgTurnOff(int32_t handle);
char *wgGetConfig(int32_t handle);
int32_t wgSetConfig(int32_t handle, char *settings);
void wgFreePtr(void *ptr);
int32_t wgActivateDaita(int32_t handle, uint8_t *peer, char *machines, double max_padding_frac, double max_blocking_frac,
                        uint32_t events_capacity, uint32_t actions_capacity);
int32_t wgGetSocketV4(int32_t handle);
int32_t wgGetSocketV6(int32_t handle);
void wgRebindTunnelSocket(uint16_t family, uint32_t interface_index);

#include "compat/mullvad.h"
