/* What wg_net_* is not to be called with, and what does not come about. */
#include "net.h"

static struct nets nets;

static void texts_are_checked(void) {
  static const char *const networks[] = {"", "tcp5", "TCP", "icmp", "tcp ", "\xff"};
  static const char *const targets[] = {"", ":", "10.9.0.2", "10.9.0.2:", "10.9.0.2:0", "10.9.0.2:65536", "10.9.0.2:x",
                                        ":80", "[fd09::2]", "[fd09::2:80", "fd09::2:80", "a b.test:80", "\xff:80"};
  static const char *const places[] = {"", "80", ":", ":x", ":65536", "a.test:80", "10.9.0.2"};
  size_t i;
  int32_t fd = -1;
  for (i = 0; i < sizeof networks / sizeof networks[0]; i++) {
    CHECK_EQ(wg_net_dial(nets.a, networks[i], "10.9.0.2:80", LONG, &fd), WG_ERR_INVALID);
    CHECK_EQ(wg_net_listen(nets.a, networks[i], ":80", 0, &fd), WG_ERR_INVALID);
  }
  for (i = 0; i < sizeof targets / sizeof targets[0]; i++) {
    CHECK_EQ(wg_net_dial(nets.a, "tcp", targets[i], LONG, &fd), WG_ERR_INVALID);
    CHECK_EQ(wg_net_dial(nets.a, "udp", targets[i], LONG, &fd), WG_ERR_INVALID);
  }
  for (i = 0; i < sizeof places / sizeof places[0]; i++)
    CHECK_EQ(wg_net_listen(nets.a, "tcp", places[i], 0, &fd), WG_ERR_INVALID);
  CHECK_FAILS(wg_net_listen(nets.a, "tcp4", "[fd09::1]:1", 0, &fd), WG_ERR_INVALID, "not IPv4");
  CHECK_FAILS(wg_net_listen(nets.a, "udp6", "10.9.0.1:1", 0, &fd), WG_ERR_INVALID, "not IPv6");
  CHECK_FAILS(wg_net_listen(nets.a, "tcp6", ":1", 0, &fd), WG_ERR_INVALID, "name an address");
  CHECK_FAILS(wg_net_dial(nets.a, NULL, "10.9.0.2:80", LONG, &fd), WG_ERR_NULL, "network is NULL");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", NULL, LONG, &fd), WG_ERR_NULL, "address is NULL");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, NULL), WG_ERR_NULL, "fd is NULL");
  CHECK_FAILS(wg_net_listen(nets.a, "tcp", ":80", 0, NULL), WG_ERR_NULL, "fd is NULL");
  CHECK_FAILS(wg_net_accept(nets.a, 0, 0, NULL, NULL), WG_ERR_NULL, "fd is NULL");
  CHECK_EQ(fd, -1);
}

static void what_does_not_come_about_has_a_code(void) {
  int32_t fd = -1, only4;
  size_t count = 77;
  wg_address_t found;
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:7", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:7");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "[fd09::2]:7", LONG, &fd), WG_ERR_REFUSED, "[fd09::2]:7");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:7", 0, &fd), WG_ERR_TIMED_OUT, "10.9.0.2:7");
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "10.9.99.1:7", LONG, &fd), WG_ERR_UNREACHABLE, "10.9.99.1:7");
  CHECK_FAILS(wg_net_ping(nets.b, "10.9.99.1", 10, LONG, NULL), WG_ERR_UNREACHABLE, "10.9.99.1");
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "10.9.7.7:7", 30, &fd), WG_ERR_TIMED_OUT, "10.9.7.7:7");
  CHECK_FAILS(wg_net_ping(nets.b, "10.9.7.7", 10, 30, NULL), WG_ERR_TIMED_OUT, "10.9.7.7");
  CHECK_FAILS(wg_net_ping(nets.a, NULL, 10, 30, NULL), WG_ERR_NULL, "host is NULL");
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 70000, LONG, NULL), WG_ERR_INVALID);
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", SIZE_MAX, LONG, NULL), WG_ERR_INVALID);
  CHECK_FAILS(wg_net_listen(nets.a, "tcp", "10.9.0.2:80", 0, &fd), WG_ERR_NOT_FOUND, "not an address of the network");
  CHECK_FAILS(wg_net_listen(nets.a, "udp", "10.9.0.2:80", 0, &fd), WG_ERR_NOT_FOUND, "not an address of the network");
  /* b has no DNS servers; nothing serves names at a's. */
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "a.test:7", LONG, &fd), WG_ERR_UNSUPPORTED, "a.test");
  CHECK_FAILS(wg_net_resolve(nets.b, "a.test", 0, LONG, &found, 1, &count), WG_ERR_UNSUPPORTED, "a.test");
  CHECK(wg_net_resolve(nets.a, "a.test", 0, 50, &found, 1, &count) < 0);
  CHECK_FAILS(wg_net_resolve(nets.a, "a.test", 5, LONG, &found, 1, &count), WG_ERR_INVALID, "family is 5");
  CHECK_FAILS(wg_net_resolve(nets.a, NULL, 0, LONG, &found, 1, &count), WG_ERR_NULL, "name is NULL");
  CHECK_FAILS(wg_net_resolve(nets.a, "::1", 0, LONG, NULL, 1, &count), WG_ERR_NULL, "addresses is NULL");
  CHECK_FAILS(wg_net_resolve(nets.a, "::1", 0, LONG, &found, 1, NULL), WG_ERR_NULL, "count is NULL");
  CHECK_EQ(wg_net_resolve(nets.a, "", 0, LONG, &found, 1, &count), WG_ERR_INVALID);
  CHECK_EQ(count, 77);
  only4 = turn_net_on("10.9.0.3", NULL, "");
  CHECK_EQ(wg_net_dial(only4, "tcp", "[fd09::2]:7", LONG, &fd), WG_ERR_UNREACHABLE);
  CHECK_EQ(wg_net_dial(only4, "udp", "[fd09::2]:7", LONG, &fd), WG_ERR_UNREACHABLE);
  CHECK_EQ(wg_turn_off(only4), WG_OK);
  CHECK_EQ(fd, -1);
}

static void a_port_has_one_listener(void) {
  int listener = listen_at(nets.b, "tcp", ":84"), free_port;
  int32_t fd = -1;
  CHECK_FAILS(wg_net_listen(nets.b, "tcp", ":84", 0, &fd), WG_ERR_ADDR_IN_USE, "[::]:84");
  CHECK_FAILS(wg_net_listen(nets.b, "tcp4", ":84", 0, &fd), WG_ERR_ADDR_IN_USE, "0.0.0.0:84");
  free_port = listen_at(nets.b, "tcp", ":0");
  CHECK(port_of(nets.b, free_port) != 84);
  close(free_port);
  close(listener);
  listener = listen_at(nets.b, "udp", ":84");
  CHECK_FAILS(wg_net_listen(nets.b, "udp", ":84", 0, &fd), WG_ERR_ADDR_IN_USE, "[::]:84");
  CHECK_FAILS(wg_net_listen(nets.b, "udp4", ":84", 0, &fd), WG_ERR_ADDR_IN_USE, "0.0.0.0:84");
  close(listener);
  listener = listen_at(nets.b, "udp", "[fd09::2]:84");
  close(listener);
  CHECK_EQ(fd, -1);
}

static void descriptors_and_handles_are_checked(void) {
  struct end without = turn_on(SOCK_DGRAM, "");
  int listener = listen_at(nets.b, "tcp", ":85"), client, server, pair[2], closed;
  wg_endpoint_t address;
  int32_t fd = -1;
  memset(&address, 0xaa, sizeof address);
  client = dial(nets.a, "tcp", "10.9.0.2:85");
  server = accept_from(nets.b, listener, NULL);
  make_pair(SOCK_STREAM, pair);
  closed = fcntl(pair[0], F_DUPFD_CLOEXEC, 900);
  close(closed);
  CHECK_FAILS(wg_net_accept(nets.b, -1, LONG, &fd, NULL), WG_ERR_INVALID, "descriptor -1 is not open");
  CHECK_FAILS(wg_net_accept(nets.b, closed, LONG, &fd, NULL), WG_ERR_INVALID, "is not open");
  CHECK_FAILS(wg_net_accept(nets.b, pair[0], LONG, &fd, NULL), WG_ERR_INVALID, "does not listen");
  CHECK_FAILS(wg_net_accept(nets.b, server, LONG, &fd, NULL), WG_ERR_INVALID, "does not listen");
  CHECK_FAILS(wg_net_accept(nets.a, listener, LONG, &fd, NULL), WG_ERR_INVALID, "does not listen");
  CHECK_EQ(wg_net_local_address(nets.b, client, &address), WG_ERR_INVALID); /* it is a's */
  CHECK_EQ(wg_net_local_address(nets.a, pair[0], &address), WG_ERR_INVALID);
  CHECK_EQ(wg_net_peer_address(nets.a, closed, &address), WG_ERR_INVALID);
  CHECK_EQ(wg_net_peer_address(nets.a, INT32_MIN, &address), WG_ERR_INVALID);
  CHECK_FAILS(wg_net_peer_address(nets.b, listener, &address), WG_ERR_NOT_FOUND, "a listener has no peer");
  CHECK_FAILS(wg_net_local_address(nets.a, client, NULL), WG_ERR_NULL, "address is NULL");
  /* A number that means something else by now. */
  close(client);
  CHECK_EQ(dup2(pair[0], client), client);
  CHECK_EQ(wg_net_local_address(nets.a, client, &address), WG_ERR_INVALID);
  close(client);
  CHECK_FAILS(wg_net_answer(nets.b, 1, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "number 1 waits");
  CHECK_FAILS(wg_net_dial(without.handle, "tcp", "10.9.0.2:85", LONG, &fd), WG_ERR_UNSUPPORTED, "wg_net_options_t");
  CHECK_FAILS(wg_net_listen(without.handle, "tcp", ":85", 0, &fd), WG_ERR_UNSUPPORTED, "wg_net_options_t");
  CHECK_FAILS(wg_net_ping(without.handle, "10.9.0.2", 1, LONG, NULL), WG_ERR_UNSUPPORTED, "wg_net_options_t");
  CHECK_FAILS(wg_net_dial(nets.b + 1000, "tcp", "10.9.0.2:85", LONG, &fd), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_set_tun_fd(nets.a, pair[0], WG_FD_DUP, 0), WG_ERR_UNSUPPORTED, "wg_net_options_t");
  CHECK_FAILS(wg_tun_inject(nets.a, NULL, 0, NULL), WG_ERR_UNSUPPORTED, "wg_tun_callbacks_t");
  /* shutdown() ends a listener without closing it. */
  CHECK_EQ(shutdown(listener, SHUT_RDWR), 0);
  while (wg_net_accept(nets.b, listener, LONG, &fd, NULL) == WG_OK) close(fd);
  fd = -1;
  close(server);
  close(listener);
  close(pair[0]);
  close(pair[1]);
  turn_off(without);
}

/* However often it fails, nothing is left. */
static void failures_leave_no_descriptor(void) {
  int before, i;
  int32_t fd = -1;
  before = open_fds();
  for (i = 0; i < 1000; i++) {
    CHECK_EQ(wg_net_dial(nets.a, "tcp", "10.9.0.2:7", LONG, &fd), WG_ERR_REFUSED);
    CHECK_EQ(wg_net_dial(nets.a, "tcp", "10.9.0.2:7", 0, &fd), WG_ERR_TIMED_OUT);
    CHECK_EQ(wg_net_dial(nets.b, "tcp", "a.test:7", LONG, &fd), WG_ERR_UNSUPPORTED);
    CHECK_EQ(wg_net_dial(nets.a, "udp", "10.9.0.2", LONG, &fd), WG_ERR_INVALID);
  }
  CHECK(open_fds() <= before); /* what was closed earlier may be noticed now */
  before = open_fds();
  /* Nor when they succeed, and are closed. */
  for (i = 0; i < 1000; i++) close(dial(nets.a, "udp", "10.9.0.2:7"));
  for (i = 0; i < TRIES && open_fds() > before; i++) sleep_ms(1);
  CHECK(open_fds() <= before);
}

static void refused_options(const wg_options_t *options, int32_t code, const char *text) {
  CHECK_FAILS(wg_turn_on_with(options, ""), code, text);
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  return count;
}

static void options_are_checked(void) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  int pair[2], listener, before = open_fds();
  int32_t handle;
  char *uapi, *settings;
  static const char conf[] = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n"
                             "Address = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.1, example.com\n"
                             "MTU = 1380\nPostUp = true\n";
  options.net = &net;
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  refused_options(&options, WG_ERR_INVALID, "net is set, and tun_fd is");
  CHECK(is_open(pair[0]));
  close(pair[0]);
  close(pair[1]);
  options.tun_fd = -1;
  tun.write = writes;
  options.tun = &tun;
  refused_options(&options, WG_ERR_INVALID, "both tun and net are set");
  options.tun = NULL;
  net.addresses = "10.0.0.2, host";
  refused_options(&options, WG_ERR_INVALID, "net: addresses: \"host\"");
  net.addresses = "224.0.0.1";
  refused_options(&options, WG_ERR_INVALID, "net: ");
  net.addresses = "10.0.0.2/33";
  refused_options(&options, WG_ERR_INVALID, "prefix length");
  net.addresses = "\xff";
  refused_options(&options, WG_ERR_INVALID, "addresses is not UTF-8");
  net.addresses = NULL;
  net.dns = "dns.example.com";
  refused_options(&options, WG_ERR_INVALID, "net: dns: \"dns.example.com\"");
  net.dns = NULL;
  net.settings = "address=10.0.0.2\nx\n";
  refused_options(&options, WG_ERR_PROTOCOL, "net: settings: line 2");
  net.settings = NULL;
  net.flags = 1;
  refused_options(&options, WG_ERR_INVALID, "flags is 0x1");
  net.flags = 0;
  net.addresses = "fd00::2";
  options.mtu = 1000;
  refused_options(&options, WG_ERR_INVALID, "net: ");
  options.mtu = 0;
  net.struct_size--;
  refused_options(&options, WG_ERR_INVALID, "net: struct_size is");
  net.struct_size++;
  /* The settings of a file, as they are. */
  CHECK_EQ(wg_conf_parse(conf, sizeof conf - 1, &uapi, &settings), WG_OK);
  net.settings = settings;
  net.addresses = "10.0.0.3";
  handle = wg_turn_on_with(&options, uapi);
  CHECK(handle > 0);
  wg_free(uapi);
  wg_free(settings);
  listener = listen_at(handle, "tcp", "[fd00::2]:1");
  close(listener);
  listener = listen_at(handle, "tcp", "10.0.0.3:1");
  close(listener);
  CHECK_EQ(wg_set_mtu(handle, 1400), WG_OK);
  CHECK_FAILS(wg_set_mtu(handle, 1000), WG_ERR_INVALID, "MTU"); /* it has an IPv6 address */
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_EQ(open_fds(), before);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  nets = turn_nets_on();
  texts_are_checked();
  what_does_not_come_about_has_a_code();
  a_port_has_one_listener();
  descriptors_and_handles_are_checked();
  failures_leave_no_descriptor();
  options_are_checked();
  turn_nets_off(nets);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
