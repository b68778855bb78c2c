/*
 * A .conf file becomes a tunnel that runs, with its events and its log from the first line on.
 *
 *     cargo build --release
 *     cc -std=c99 -O2 -Iinclude examples/c/tunnel.c -o tunnel -Ltarget/release -lwg_embed -Wl,-rpath,target/release
 *     ./tunnel                          without privileges: a file of its own, whose peer does not exist
 *     sudo ./tunnel wg0.conf wg0        Linux: makes the interface wg0, and runs until its input ends (Ctrl-D)
 *
 * What the system has to be told, addresses and routes, is printed as commands: this program changes nothing but the
 * interface that it makes, which goes when it ends. On a phone, VpnService or NetworkExtension is told the same things.
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __linux__
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#endif

static const char example[] = "[Interface]\n"
                              "PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n"
                              "Address = 10.0.0.2/24\n"
                              "DNS = 10.0.0.1\n"
                              "\n"
                              "[Peer]\n"
                              "PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n"
                              "Endpoint = 127.0.0.1:9\n"
                              "AllowedIPs = 10.0.0.0/24\n"
                              "PersistentKeepalive = 25\n";

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

/* Far more than a .conf file has. */
#define FILE_MAX 1048576

/* Reads a file whole. It has a private key in it, and is wiped by the caller: stdio has no copy. */
static char *read_file(const char *path, size_t *len) {
  FILE *file = fopen(path, "rb");
  char *bytes = malloc(FILE_MAX + 1);
  if (file == NULL || bytes == NULL || setvbuf(file, NULL, _IONBF, 0) != 0) {
    perror(path);
    exit(1);
  }
  *len = fread(bytes, 1, FILE_MAX + 1, file);
  if (ferror(file)) {
    perror(path);
    exit(1);
  }
  if (*len > FILE_MAX) {
    fprintf(stderr, "%s: more than %d bytes\n", path, FILE_MAX);
    exit(1);
  }
  fclose(file);
  return bytes;
}

/* Compilers leave a memset() away whose memory is freed next. */
static void wipe(char *bytes, size_t len) {
  volatile char *secret = bytes;
  while (len > 0) secret[--len] = 0;
}

/* One end for the tunnel, the other, if there is one, for this program. */
static int open_interface(const char *name, int *app) {
  int pair[2];
  *app = -1;
  if (name == NULL) {
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0) exit(1);
    *app = pair[1];
    return pair[0];
  }
#ifdef __linux__
  {
    struct ifreq request;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0) return fd;
  }
#endif
  perror(name);
  exit(1);
}

/* Prints what the system has to be told: a line for each value. */
static void print_settings(const char *settings, const char *name) {
  const char *line, *end;
  for (line = settings; *line != 0; line = end + 1) {
    const char *value = strchr(line, '=') + 1;
    int len;
    end = strchr(line, '\n');
    len = (int)(end - value);
    if (strncmp(line, "address=", 8) == 0)
      printf("ip address add %.*s dev %s\n", len, value, name);
    else if (strncmp(line, "mtu=", 4) == 0)
      printf("ip link set mtu %.*s dev %s\n", len, value, name);
    else
      printf("# %.*s\n", (int)(end - line), line);
  }
  printf("ip link set up dev %s\n", name);
}

static void take_line(void *user, int32_t tunnel, int32_t level, const char *text) {
  static const char *const names[] = {"off", "error", "warn", "info", "debug", "trace"};
  (void)user, (void)tunnel;
  printf("log    %s: %s\n", level >= 0 && level <= WG_LOG_TRACE ? names[level] : "?", text);
}

/* Prints the events that wait. Returns 0 once the tunnel has ended. */
static int take_events(int32_t tunnel) {
  wg_event_t event = WG_EVENT_INIT;
  int32_t found;
  while ((found = wg_next_event(tunnel, &event, 0)) == 1) {
    char peer[WG_KEY_BASE64_LEN];
    if (wg_keys_to_base64(event.public_key, peer) != WG_OK) fail("wg_keys_to_base64");
    printf("event  %u: peer %.8s.. %s%s\n", (unsigned)event.kind, peer, event.endpoint, event.reason);
  }
  return found == 0;
}

int main(int argc, char **argv) {
  const char *name = argc > 2 ? argv[2] : NULL;
  size_t len = sizeof example - 1;
  char *file = argc > 2 ? read_file(argv[1], &len) : NULL, *uapi, *settings;
  wg_result_t parsed;
  wg_options_t options = WG_OPTIONS_INIT;
  struct pollfd wanted[2];
  int32_t tunnel;
  int app, rounds;

  parsed = wg_conf_parse(file != NULL ? file : example, len, &uapi, &settings);
  if (file != NULL) wipe(file, len);
  free(file);
  if (parsed != WG_OK) fail(file != NULL ? argv[1] : "example");

  options.tun_fd = open_interface(name, &app);
  options.log = take_line;
  options.log_level = WG_LOG_DEBUG;
  options.flags = WG_OPTIONS_QUEUE_EVENTS;
  options.resolve = wg_resolve_system; /* for endpoints that are host names */
  tunnel = wg_turn_on_with(&options, uapi);
  if (tunnel < 0) fail("wg_turn_on_with");
  wg_free(uapi); /* which wipes it */
  print_settings(settings, name != NULL ? name : "wg0");
  wg_free(settings);
  fflush(stdout);

  wanted[0].fd = wg_event_fd(tunnel);
  wanted[1].fd = STDIN_FILENO;
  wanted[0].events = wanted[1].events = POLLIN;
  /* Without a file there is nothing to wait for: a second shows the first handshake message. */
  for (rounds = 0; name != NULL || rounds < 10; rounds++) {
    char input[64];
    wanted[1].revents = 0;
    if (poll(wanted, name != NULL ? 2 : 1, name != NULL ? -1 : 100) < 0 || !take_events(tunnel)) break;
    if (wanted[1].revents != 0 && read(STDIN_FILENO, input, sizeof input) <= 0) break;
    fflush(stdout);
  }
  if (wg_turn_off(tunnel) != WG_OK) fail("wg_turn_off");
  if (app >= 0) close(app);
  return 0;
}
