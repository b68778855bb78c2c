/* What wireguard-windows declares of its tunnel.dll, as facts, and ours: a compiler refuses two declarations that
 * differ. */
#include <stddef.h>
#include <stdint.h>

#ifdef DIFFERS /* That this would be noticed. */
typedef char path_unit_t;
#else
typedef wchar_t path_unit_t;
#endif
typedef int win_bool_t; /* BOOL */

win_bool_t WireGuardTunnelService(const path_unit_t *conf_file);
void WireGuardGenerateKeypair(uint8_t public_key[32], uint8_t private_key[32]);

#include "compat/windows.h"
