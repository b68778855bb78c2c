/*
 * The other side of a tunnel that runs as a service: peer PORT PRIVATE_KEY PUBLIC_KEY (keys in base64).
 *
 * Sends a packet from 10.99.0.1 to 10.99.0.2 to the tunnel at 127.0.0.1:PORT, again and again, until it comes back with
 * the addresses swapped, which the stand-in of wintun.dll does. Fails after five minutes.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdio.h>
#include <string.h>

#include "wg_embed.h"

/* IPv4 and UDP, without checksums. */
static const uint8_t there[28] = {0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99,
                                  0,    1, 10, 99, 0, 2, 0, 1, 0, 2, 0, 8};
static volatile LONG has_returned;

static size_t on_packets(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  size_t i;
  (void)user, (void)handle;
  for (i = 0; i < count; i++) {
    const uint8_t *packet = packets[i].data;
    if (packets[i].len == sizeof there && !memcmp(packet + 12, there + 16, 4) && !memcmp(packet + 16, there + 12, 4)) {
      InterlockedExchange(&has_returned, 1);
    }
  }
  return count;
}

static int hex(const char *base64, char *text) {
  uint8_t key[WG_KEY_LEN];
  return wg_keys_from_base64(base64, key) == WG_OK && wg_keys_to_hex(key, text) == WG_OK;
}

int main(int count, char **words) {
  wg_options_t options = WG_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  char private_key[WG_KEY_HEX_LEN], public_key[WG_KEY_HEX_LEN], config[512];
  wg_packet_t packet = {there, sizeof there};
  int32_t handle, tries;
  if (count != 4 || !hex(words[2], private_key) || !hex(words[3], public_key)) return 2;
  snprintf(config, sizeof config, "private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:%s\nallowed_ip=10.99.0.2/32\n",
           private_key, public_key, words[1]);
  tun.write = on_packets;
  options.tun = &tun;
  handle = wg_turn_on_with(&options, config);
  if (handle < 0) {
    fprintf(stderr, "%s\n", wg_last_error());
    return 1;
  }
  for (tries = 0; tries < 3000 && !has_returned; tries++) {
    wg_tun_inject(handle, &packet, 1, NULL);
    Sleep(100);
  }
  wg_turn_off(handle);
  puts(has_returned ? "the packet has come back" : "no packet has come back");
  return !has_returned;
}
