/* A tunnel's sockets: shown to the app first, renewed, tied, lent; and a tunnel that rests. */
#include "check.h"

#include <net/if.h>
#include <netinet/in.h>
#include <stdatomic.h>

struct guardian {
  atomic_int shown[2]; /* by family */
  atomic_int refuse;
  atomic_int destroyed;
  atomic_int handle; /* to call back with */
  atomic_int busy;
};

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  struct guardian *guardian = user;
  struct sockaddr_storage name;
  socklen_t len = sizeof name;
  int32_t handle = atomic_load(&guardian->handle);
  /* It is a socket of its family, and not bound yet: nothing can have left it. */
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &len), 0);
  CHECK_EQ(name.ss_family, family == WG_IPV6 ? AF_INET6 : AF_INET);
  CHECK_EQ(family == WG_IPV6 ? ((struct sockaddr_in6 *)&name)->sin6_port : ((struct sockaddr_in *)&name)->sin_port, 0);
  atomic_fetch_add(&guardian->shown[family == WG_IPV6], 1);
  if (handle != 0) {
    char *text = NULL;
    atomic_fetch_add(&guardian->busy, wg_get_config(handle, &text) == WG_ERR_BUSY);
    atomic_fetch_add(&guardian->busy, wg_bump_sockets(handle) == WG_ERR_BUSY);
    atomic_fetch_add(&guardian->busy, wg_turn_off(handle) == WG_ERR_BUSY);
  }
  return atomic_load(&guardian->refuse);
}

static void destroy(void *user) { atomic_fetch_add(&((struct guardian *)user)->destroyed, 1); }

static struct end guarded(struct guardian *guardian, const char *uapi) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.protect = protect;
  options.protect_user = guardian;
  options.protect_destroy = destroy;
  end.app = pair[1];
  end.handle = wg_turn_on_with(&options, uapi);
  if (end.handle < 0) {
    close(pair[0]);
    close(pair[1]);
  }
  return end;
}

static int shown(struct guardian *guardian) {
  int v4 = atomic_load(&guardian->shown[0]), v6 = atomic_load(&guardian->shown[1]);
  CHECK(v6 <= v4); /* a host may have no IPv6, and what is refused first is the last to be shown */
  return v4;
}

static void every_socket_is_shown_first(void) {
  struct guardian guardian = {0};
  struct end a = guarded(&guardian, "private_key=" PRIVATE_A "\n"), b;
  int before;
  CHECK(a.handle > 0);
  before = shown(&guardian);
  CHECK(before >= 1);
  atomic_store(&guardian.handle, a.handle);
  CHECK_EQ(wg_bump_sockets(a.handle), WG_OK);
  CHECK(shown(&guardian) > before);
  CHECK_EQ(atomic_load(&guardian.busy) % 3, 0);
  CHECK(atomic_load(&guardian.busy) > 0);
  before = shown(&guardian);
  CHECK_EQ(wg_set_config(a.handle, "listen_port=0\n"), WG_OK);
  CHECK(shown(&guardian) > before);
  before = shown(&guardian);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  CHECK(shown(&guardian) > before);
  CHECK_EQ(atomic_load(&guardian.destroyed), 0);
  turn_off(a);
  CHECK_EQ(atomic_load(&guardian.destroyed), 1);

  /* One that refuses lets nothing be sent. */
  atomic_store(&guardian.handle, 0);
  atomic_store(&guardian.refuse, 1);
  b = guarded(&guardian, "private_key=" PRIVATE_A "\n");
  CHECK_EQ(b.handle, WG_ERR_PERMISSION);
  CHECK(strstr(wg_last_error(), "refused") != NULL);
  CHECK_EQ(atomic_load(&guardian.destroyed), 2);
  b = guarded(&guardian, "nonsense");
  CHECK_EQ(b.handle, WG_ERR_PROTOCOL);
  CHECK_EQ(atomic_load(&guardian.destroyed), 3);
  b = guarded(&guardian, NULL);
  CHECK_EQ(b.handle, WG_ERR_NULL);
  CHECK_EQ(atomic_load(&guardian.destroyed), 4);
}

static void a_refusal_later_on_is_tried_again(void) {
  struct guardian guardian = {0};
  struct end a = guarded(&guardian, "private_key=" PRIVATE_A "\n");
  int i, before;
  CHECK(a.handle > 0);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_FAILS(wg_peek_socket_fd4(a.handle), WG_ERR_NOT_FOUND, "no IPv4 socket");
  atomic_store(&guardian.refuse, -1);
  CHECK_EQ(wg_resume(a.handle), WG_ERR_PERMISSION);
  CHECK_EQ(wg_peek_socket_fd4(a.handle), WG_ERR_NOT_FOUND);
  before = shown(&guardian);
  for (i = 0; i < TRIES && shown(&guardian) == before; i++) sleep_ms(10);
  CHECK(shown(&guardian) > before);
  CHECK_EQ(wg_peek_socket_fd4(a.handle), WG_ERR_NOT_FOUND);
  atomic_store(&guardian.refuse, 0);
  for (i = 0; i < TRIES && wg_peek_socket_fd4(a.handle) < 0; i++) sleep_ms(10);
  CHECK(wg_peek_socket_fd4(a.handle) >= 0);
  turn_off(a);
  CHECK_EQ(atomic_load(&guardian.destroyed), 1);
}

static int port_of(int fd) {
  struct sockaddr_in name;
  socklen_t len = sizeof name;
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &len), 0);
  return ntohs(name.sin_port);
}

static void sockets_are_lent_and_renewed_on_their_port(void) {
  struct end a, b;
  int fd, port;
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  fd = wg_peek_socket_fd4(a.handle);
  CHECK(fd >= 0);
  port = listen_port(a.handle);
  CHECK_EQ(port_of(fd), port);
  CHECK(wg_peek_socket_fd6(a.handle) != fd);
  CHECK_EQ(wg_bump_sockets(a.handle), WG_OK);
  CHECK_EQ(port_of(wg_peek_socket_fd4(a.handle)), port);
  check_exchange(a, b);
  CHECK_EQ(wg_disable_roaming(a.handle), WG_OK);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
}

/* A packet from 10.9.0.`from` to 10.9.0.`to` does not arrive. */
static void check_silent(struct end in, struct end out, int from, int to) {
  unsigned char packet[100];
  struct pollfd ready = {0, POLLIN, 0};
  ready.fd = out.app;
  make_packet(packet, 100, from, to, 0);
  CHECK_EQ(send(in.app, packet, 100, 0), 100);
  CHECK_EQ(poll(&ready, 1, 150), 0);
}

static void a_tied_socket_uses_its_interface_and_a_blackhole_nothing(void) {
  struct end a, b;
  uint32_t lo = if_nametoindex("lo");
  CHECK(lo != 0);
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  CHECK_EQ(wg_bind_socket_to_interface4(a.handle, lo, 0), WG_OK);
  check_exchange(a, b);
  CHECK_EQ(wg_bind_socket_to_interface4(a.handle, lo, 1), WG_OK);
  check_silent(a, b, 1, 2);
  CHECK_FAILS(wg_bind_socket_to_interface4(a.handle, 0x7ffffff0, 0), WG_ERR_NOT_FOUND, "interface");
  check_silent(a, b, 1, 2); /* nothing has changed */
  CHECK_EQ(wg_bind_socket_to_interface4(a.handle, 0, 0), WG_OK);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
}

static void a_tunnel_rests_and_goes_on(void) {
  struct end a, b;
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  /* As with sockets; else it could not go on. */
  CHECK_FAILS(wg_bind_socket_to_interface4(a.handle, 0x7ffffff0, 0), WG_ERR_NOT_FOUND, "interface");
  check_silent(b, a, 2, 1);
  CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=0\n"), WG_OK);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  check_exchange(a, b);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  turn_off(a);
  turn_off(b);
}

static void marks_take_permission(void) {
  struct end a = turn_on(SOCK_DGRAM, "");
  int32_t result = wg_set_fwmark(a.handle, 7);
  char *text = get(a.handle);
  CHECK(result == WG_OK || result == WG_ERR_PERMISSION);
  CHECK((strstr(text, "fwmark=7\n") != NULL) == (result == WG_OK));
  wg_free(text);
  CHECK_EQ(wg_set_fwmark(a.handle, 0), WG_OK);
  turn_off(a);
}

static void handles_are_checked(void) {
  static const int32_t foreign[] = {0, -1, 1 << 30};
  size_t i;
  for (i = 0; i < 3; i++) {
    int32_t handle = foreign[i];
    CHECK_EQ(wg_peek_socket_fd4(handle), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_peek_socket_fd6(handle), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_bind_socket_to_interface4(handle, 1, 0), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_bind_socket_to_interface6(handle, 1, 0), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_bump_sockets(handle), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_disable_roaming(handle), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_set_fwmark(handle, 0), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_pause(handle), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_resume(handle), WG_ERR_UNKNOWN_HANDLE);
  }
}

static atomic_int stop;

static void *disturb(void *argument) {
  int32_t handle = *(int32_t *)argument;
  unsigned round;
  for (round = 0; !atomic_load(&stop); round++) {
    int32_t result;
    switch (round % 5) {
      case 0: result = wg_bump_sockets(handle); break;
      case 1: result = wg_pause(handle); break;
      case 2:
        result = wg_peek_socket_fd4(handle);
        /* While it is paused there is none. */
        if (result > 0 || result == WG_ERR_NOT_FOUND) result = WG_OK;
        break;
      case 3: result = wg_resume(handle); break;
      default: result = wg_set_config(handle, "listen_port=0\n"); break;
    }
    CHECK(result == WG_OK || result == WG_ERR_ADDR_IN_USE || result == WG_ERR_UNKNOWN_HANDLE || result == WG_ERR_CLOSED);
  }
  return NULL;
}

static void everything_at_once_and_off(void) {
  struct end a, b;
  pthread_t threads[3];
  int i, fds = open_fds();
  turn_on_both(SOCK_DGRAM, &a, &b);
  for (i = 0; i < 3; i++) start(&threads[i], disturb, &a.handle);
  for (i = 0; i < 30; i++) {
    unsigned char packet[100];
    make_packet(packet, 100, 2, 1, i);
    (void)send(b.app, packet, 100, MSG_DONTWAIT);
    (void)send(a.app, packet, 100, MSG_DONTWAIT);
    sleep_ms(10);
  }
  turn_off(a);
  atomic_store(&stop, 1);
  for (i = 0; i < 3; i++) join(threads[i]);
  turn_off(b);
  CHECK_EQ(open_fds(), fds);
}

int main(void) {
  every_socket_is_shown_first();
  a_refusal_later_on_is_tried_again();
  sockets_are_lent_and_renewed_on_their_port();
  a_tied_socket_uses_its_interface_and_a_blackhole_nothing();
  a_tunnel_rests_and_goes_on();
  marks_take_permission();
  handles_are_checked();
  everything_at_once_and_off();
  return 0;
}
