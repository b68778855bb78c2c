/* The number of descriptors of a tunnel and a bind: at most that of docs/C_API.md. None is inherited by exec(), and all
 * of them are closed at the end. */
#include "check.h"

#define TUNNEL 12     /* besides the one that it was given */
#define OWN_PACKETS 8 /* without a descriptor for packets */
#define BIND 12
#define NETWORK 14    /* with a userspace network, and no connection */

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  return count;
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  return count;
}

static int before[1024];

static void look_before(void) {
  int fd;
  for (fd = 0; fd < 1024; fd++) before[fd] = is_open(fd);
}

/* Counts what has been opened since. */
static int opened(void) {
  int fd, count = 0;
  for (fd = 0; fd < 1024; fd++) {
    if (before[fd] || !is_open(fd)) continue;
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(fd > 2); /* 0 to 2 mean something to every program */
    count++;
  }
  return count;
}

static void turn_on_and_off(const wg_options_t *options, int most) {
  int32_t handle;
  look_before();
  handle = wg_turn_on_with(options, "private_key=" PRIVATE_A "\n");
  CHECK(handle > 0);
  CHECK(opened() <= most);
  CHECK_EQ(wg_bump_sockets(handle), WG_OK);
  CHECK(opened() <= most);
  CHECK_EQ(wg_network_changed(handle), WG_OK);
  /* Fresh sockets are opened before the old ones are closed. */
  CHECK(opened() <= (most == 0 ? 0 : most + 2));
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_EQ(opened(), 0);
}

int main(void) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2], round;
  int32_t bind;
  for (round = 0; round < 2; round++) {
    make_pair(SOCK_DGRAM, pair);
    options.tun_fd = pair[0];
    options.fd_ownership = WG_FD_DUP;
    options.tun = NULL;
    options.transport = NULL;
    turn_on_and_off(&options, TUNNEL);
    options.flags = WG_OPTIONS_QUEUE_EVENTS;
    turn_on_and_off(&options, TUNNEL + 2);
    options.flags = 0;
    close(pair[0]);
    close(pair[1]);
    tun.write = writes;
    options.tun_fd = -1;
    options.tun = &tun;
    turn_on_and_off(&options, OWN_PACKETS);
    transport.send = sends;
    options.transport = &transport;
    turn_on_and_off(&options, 0);
#ifdef WG_EMBED_NETSTACK
    {
      wg_net_options_t net = WG_NET_OPTIONS_INIT;
      wg_options_t with_net = WG_OPTIONS_INIT;
      with_net.net = &net;
      turn_on_and_off(&with_net, NETWORK);
    }
#endif
    look_before();
    bind = wg_udp_open(NULL, NULL);
    CHECK(bind > 0);
    CHECK(opened() <= BIND);
    CHECK_EQ(wg_udp_reopen(bind, NULL), WG_OK);
    CHECK(opened() <= BIND);
    CHECK_EQ(wg_udp_close(bind), WG_OK);
    CHECK_EQ(opened(), 0);
  }
  return 0;
}
