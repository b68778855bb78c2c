/* Every struct that begins with its size, from callers that are older or newer than the library, or wrong. */
#include "check.h"

enum { LARGEST = 4096 };

static int32_t handle;
static int fd, app, asked, destroyed, calls;

static void renew(void) {
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  fd = pair[0];
  app = pair[1];
}

static int32_t protects(void *user, int32_t socket, uint32_t family) {
  (void)user, (void)socket, (void)family;
  asked++;
  return 0;
}

static void destroys(void *user) {
  CHECK(user == &calls);
  destroyed++;
}

static size_t takes(void *user, int32_t tunnel, const wg_packet_t *packets, size_t count) {
  (void)user, (void)tunnel, (void)packets;
  return count;
}

static size_t sends(void *user, int32_t tunnel, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)tunnel, (void)datagrams;
  return count;
}

/* What a call with a struct of the app comes to; what it made is ended. */
static int32_t ended(int32_t made) {
  if (made > 0) CHECK_EQ(wg_turn_off(made), WG_OK);
  return made > 0 ? WG_OK : made;
}

static int32_t use_options(void *bytes) {
  int32_t code = ended(wg_turn_on_with(bytes, ""));
  if (code == WG_OK) {
    CHECK(!is_open(fd) && asked > 0);
    close(app);
    renew();
  } else {
    CHECK(is_open(fd) && !is_nonblocking(fd) && asked == 0);
  }
  asked = 0;
  return code;
}

static int32_t use_tun(void *bytes) {
  wg_options_t options = WG_OPTIONS_INIT;
  options.tun = bytes;
  return ended(wg_turn_on_with(&options, ""));
}

static int32_t use_transport(void *bytes) {
  wg_options_t options = WG_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  tun.write = takes;
  options.tun = &tun;
  options.transport = bytes;
  return ended(wg_turn_on_with(&options, ""));
}

#ifdef WG_EMBED_NETSTACK
static int32_t with_net; /* a tunnel */

static int32_t use_net(void *bytes) {
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t code;
  options.net = bytes;
  code = ended(wg_turn_on_with(&options, ""));
  if (code == WG_OK) destroyed++; /* it has no functions */
  return code;
}

static int32_t use_intercept(void *bytes) {
  int32_t listener = -1, result = wg_net_intercept(with_net, bytes, &listener);
  CHECK((listener >= 0) == (result == WG_OK));
  if (listener >= 0) close(listener);
  return result;
}
#endif

#ifdef WG_EMBED_CONTROL
static int32_t managed; /* a manager */

static int32_t starts(void *user, int32_t manager, const wg_manager_request_t *request, char *reason, size_t size) {
  (void)user, (void)manager, (void)request, (void)reason, (void)size;
  return 0;
}

static int32_t serve(const wg_manager_options_t *options) {
  static const char header[] = "codervpn manager 1.3\n";
  int pair[2];
  int32_t made;
  make_pair(SOCK_STREAM, pair);
  CHECK_EQ(write(pair[1], header, sizeof header - 1), sizeof header - 1);
  made = wg_manager_serve(pair[0], pair[0], options);
  close(pair[0]);
  if (made < 0) close(pair[1]);
  else app = pair[1];
  return made;
}

static int32_t use_manager_options(void *bytes) {
  int32_t made = serve(bytes);
  if (made < 0) return made;
  CHECK_EQ(wg_manager_stop(made), WG_OK);
  close(app);
  return WG_OK;
}

static int32_t use_manager_state(void *bytes) {
  int32_t code = wg_manager_update(managed, bytes);
  if (code == WG_OK) destroyed++; /* it has no functions */
  return code;
}
#endif

static int32_t use_udp_options(void *bytes) {
  int32_t made = wg_udp_open(bytes, NULL);
  CHECK((asked > 0) == (made > 0));
  asked = 0;
  if (made > 0) CHECK_EQ(wg_udp_close(made), WG_OK);
  return made > 0 ? WG_OK : made;
}

static int32_t use_udp_options_to_adopt(void *bytes) {
  struct sockaddr_in address;
  int32_t made;
  int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  CHECK_EQ(bind(socket_fd, (struct sockaddr *)&address, sizeof address), 0);
  made = wg_udp_adopt(socket_fd, WG_FD_DUP, bytes, NULL);
  close(socket_fd);
  if (made > 0) CHECK_EQ(wg_udp_close(made), WG_OK);
  return made > 0 ? WG_OK : made;
}

/* Structs that the app fills: what is in them is used, or refused as a whole. */
static void is_read(const char *name, const void *right, size_t size, int32_t (*use)(void *)) {
  static const size_t huge[] = {LARGEST + 1, 65536, SIZE_MAX / 2, SIZE_MAX};
  unsigned char *bytes;
  size_t n, i;
  destroyed = 0;
  for (n = 0; n < size; n++) {
    /* Exactly as many bytes as it says, so that a sanitizer sees a read beyond them. */
    bytes = malloc(n < sizeof n ? sizeof n : n);
    CHECK(bytes != NULL);
    memcpy(bytes, right, n);
    memcpy(bytes, &n, sizeof n);
    CHECK_FAILS(use(bytes), WG_ERR_INVALID, "struct_size is");
    CHECK(strstr(wg_last_error(), name) == wg_last_error());
    free(bytes);
  }
  CHECK_EQ(destroyed, 0);
  for (n = size; n <= size + 64 || n == LARGEST; n = n == size + 64 ? LARGEST : n + 1) {
    bytes = calloc(1, n + 1);
    CHECK(bytes != NULL);
    /* At an odd address, as packed structs have it. */
    memcpy(bytes + 1, right, size);
    memcpy(bytes + 1, &n, sizeof n);
    CHECK_EQ(use(bytes + 1), WG_OK);
    for (i = size; i < n; i += i + 1 < n && i > size + 8 ? n - i - 1 : 1) {
      bytes[1 + i] = 1;
      CHECK_FAILS(use(bytes + 1), WG_ERR_UNSUPPORTED, "does not know");
      bytes[1 + i] = 0;
    }
    free(bytes);
  }
  CHECK(destroyed > 0);
  bytes = calloc(1, LARGEST);
  CHECK(bytes != NULL);
  memcpy(bytes, right, size);
  for (i = 0; i < sizeof huge / sizeof huge[0]; i++) {
    memcpy(bytes, &huge[i], sizeof huge[i]);
    CHECK_FAILS(use(bytes), WG_ERR_INVALID, "struct_size is");
  }
  free(bytes);
}

static void is_filled(size_t size, wg_result_t (*fill)(void *, int32_t)) {
  static const size_t huge[] = {LARGEST + 1, 65536, SIZE_MAX / 2, SIZE_MAX};
  size_t n, i, room;
  unsigned char *bytes;
  for (n = 0; n <= size + 64; n++) {
    room = n < sizeof n ? sizeof n : n;
    bytes = malloc(room);
    CHECK(bytes != NULL);
    memset(bytes, 0xaa, room);
    memcpy(bytes, &n, sizeof n);
    if (n < size) {
      CHECK_FAILS(fill(bytes, handle), WG_ERR_INVALID, "struct_size is");
      for (i = sizeof n; i < room; i++) CHECK_EQ(bytes[i], 0xaa);
    } else {
      CHECK_EQ(fill(bytes, handle), WG_OK);
      for (i = size; i < n; i++) CHECK_EQ(bytes[i], 0);
    }
    CHECK_EQ(memcmp(bytes, &n, sizeof n), 0);
    free(bytes);
  }
  bytes = calloc(1, LARGEST);
  CHECK(bytes != NULL);
  for (i = 0; i < sizeof huge / sizeof huge[0]; i++) {
    memcpy(bytes, &huge[i], sizeof huge[i]);
    CHECK_FAILS(fill(bytes, handle), WG_ERR_INVALID, "struct_size is");
    for (n = sizeof n; n < LARGEST; n++) CHECK_EQ(bytes[n], 0);
  }
  n = LARGEST;
  memcpy(bytes, &n, sizeof n);
  CHECK_FAILS(fill(bytes, handle + 1), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_EQ(fill(bytes, handle), WG_OK);
  CHECK_FAILS(fill(NULL, handle), WG_ERR_NULL, "is NULL");
  free(bytes);
}

static wg_result_t fill_stats(void *out, int32_t tunnel) { return wg_stats(tunnel, out); }

static wg_result_t fill_usage(void *out, int32_t tunnel) { return wg_memory_usage(tunnel, out); }

static wg_result_t fill_peer(void *out, int32_t tunnel) {
  uint8_t key[WG_KEY_LEN];
  key_bytes(PUBLIC_B, key);
  if (out != NULL && tunnel == handle) CHECK_FAILS(wg_peer_stats(tunnel, NULL, out), WG_ERR_NULL, "key is NULL");
  return wg_peer_stats(tunnel, key, out);
}

static wg_result_t fill_peers(void *out, int32_t tunnel) {
  size_t count = 77;
  wg_result_t result = wg_peers(tunnel, out, 1, &count);
  CHECK_EQ(count, result == WG_OK ? 1 : 77);
  return result;
}

int main(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  wg_udp_options_t udp_options = WG_UDP_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  struct end end = turn_on(SOCK_DGRAM, "public_key=" PUBLIC_B "\n");
  handle = end.handle;
  renew();
  options.tun_fd = fd;
  options.protect = protects;
  options.protect_user = &calls;
  options.protect_destroy = destroys;
  is_read("options", &options, sizeof options, use_options);
  close(fd);
  close(app);
  udp_options.protect = protects;
  udp_options.user = tun.user = transport.user = &calls;
  udp_options.destroy = tun.destroy = transport.destroy = destroys;
  is_read("options", &udp_options, sizeof udp_options, use_udp_options);
  is_read("options", &udp_options, sizeof udp_options, use_udp_options_to_adopt);
  tun.write = takes;
  is_read("tun", &tun, sizeof tun, use_tun);
  transport.send = sends;
  is_read("transport", &transport, sizeof transport, use_transport);
#ifdef WG_EMBED_NETSTACK
  {
    wg_net_options_t net = WG_NET_OPTIONS_INIT;
    wg_net_intercept_t intercept = WG_NET_INTERCEPT_INIT;
    is_read("net", &net, sizeof net, use_net);
    options.tun_fd = -1;
    options.net = &net;
    with_net = wg_turn_on_with(&options, "");
    CHECK(with_net > 0);
    intercept.user = &calls;
    intercept.destroy = destroys;
    is_read("options", &intercept, sizeof intercept, use_intercept);
    CHECK_EQ(wg_turn_off(with_net), WG_OK);
  }
#endif
#ifdef WG_EMBED_CONTROL
  {
    wg_manager_options_t manager = WG_MANAGER_OPTIONS_INIT;
    wg_manager_state_t state = WG_MANAGER_STATE_INIT;
    manager.start = starts;
    manager.start_user = &calls;
    manager.start_destroy = destroys;
    is_read("options", &manager, sizeof manager, use_manager_options);
    managed = serve(&manager);
    CHECK(managed > 0);
    state.conf = "[Interface]\n";
    state.conf_len = 12;
    is_read("state", &state, sizeof state, use_manager_state);
    CHECK_EQ(wg_manager_stop(managed), WG_OK);
    close(app);
  }
#endif
  is_filled(sizeof(wg_stats_t), fill_stats);
  is_filled(sizeof(wg_peer_stats_t), fill_peer);
  is_filled(sizeof(wg_peer_stats_t), fill_peers);
  is_filled(sizeof(wg_memory_usage_t), fill_usage);
  turn_off(end);
  return 0;
}
