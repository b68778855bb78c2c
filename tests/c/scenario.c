/* scenario [FILE...]: the conversations of tests/scenarios, whose README.md describes the steps. */
#include "check.h"

#include <glob.h>
#include <strings.h>

#define MAX_PARTIES 8
#define MAX_WORDS 5
#define MAX_CONF 4096
#define MAX_EVENTS 64

/* A name of the scenario: a key, and a tunnel while its handle is not 0. */
struct party {
  char name[16];
  uint8_t private_key[WG_KEY_LEN], public_key[WG_KEY_LEN];
  struct end end;
  char conf[MAX_CONF]; /* of the tunnel */
  wg_event_t events[MAX_EVENTS]; /* that no step has taken yet */
  size_t event_count;
  wg_peer_stats_t sessions[MAX_PARTIES]; /* as the last step "session" found them, by the peer's place */
};

static struct party parties[MAX_PARTIES];
static size_t party_count;
static unsigned packet_number;

struct name {
  const char *text;
  int32_t value;
};

#define NAME(prefix, text) {#text, prefix##text}
static const struct name kinds[] = {
    NAME(WG_EVENT_, HANDSHAKE_COMPLETED), NAME(WG_EVENT_, HANDSHAKE_FAILED), NAME(WG_EVENT_, SESSION_EXPIRED),
    NAME(WG_EVENT_, ENDPOINT_CHANGED),    NAME(WG_EVENT_, RESOLVE_FAILED),   NAME(WG_EVENT_, ROUTING_LOOP),
    NAME(WG_EVENT_, SOCKETS_LOST),        NAME(WG_EVENT_, SOCKETS_RECOVERED), NAME(WG_EVENT_, ENDED),
    {NULL, 0},
};
static const struct name codes[] = {
    NAME(WG_ERR_, INVALID),     NAME(WG_ERR_, PROTOCOL),  NAME(WG_ERR_, UNSUPPORTED), NAME(WG_ERR_, TOO_LARGE),
    NAME(WG_ERR_, ADDR_IN_USE), NAME(WG_ERR_, NOT_FOUND), NAME(WG_ERR_, PERMISSION),  NAME(WG_ERR_, RESOURCES),
    {NULL, 0},
};

static int32_t value_of(const struct name *names, const char *text) {
  for (; names->text != NULL; names++)
    if (strcasecmp(names->text, text) == 0) return names->value;
  fprintf(stderr, "%s is no name\n", text);
  exit(1);
}

static struct party *party(const char *name) {
  struct party *new;
  size_t i;
  for (i = 0; i < party_count; i++)
    if (strcmp(parties[i].name, name) == 0) return &parties[i];
  CHECK(party_count < MAX_PARTIES && strlen(name) < sizeof new->name);
  new = &parties[party_count++];
  strcpy(new->name, name);
  CHECK_EQ(wg_keys_generate_private(new->private_key), WG_OK);
  CHECK_EQ(wg_keys_derive_public(new->private_key, new->public_key), WG_OK);
  return new;
}

/* The party's tunnel, which is on. */
static struct party *tunnel(const char *name) {
  struct party *it = party(name);
  CHECK(it->end.handle > 0);
  return it;
}

/* Replaces `{NAME.private}` and the like. */
static void fill(const char *text, char conf[MAX_CONF]) {
  size_t len = 0;
  while (*text != '\0') {
    char name[16], what[16], value[WG_KEY_BASE64_LEN] = {*text};
    int used = 1;
    if (*text == '{') {
      CHECK_EQ(sscanf(text, "{%15[a-z].%15[a-z]}%n", name, what, &used), 2);
      if (strcmp(what, "private") == 0) {
        CHECK_EQ(wg_keys_to_base64(party(name)->private_key, value), WG_OK);
      } else if (strcmp(what, "public") == 0) {
        CHECK_EQ(wg_keys_to_base64(party(name)->public_key, value), WG_OK);
      } else {
        CHECK_TEXT(what, "port");
        snprintf(value, sizeof value, "%d", wg_listen_port(tunnel(name)->end.handle));
      }
    }
    CHECK(len + strlen(value) < MAX_CONF);
    strcpy(conf + len, value);
    len += strlen(value);
    text += used;
  }
}

static void on(char **words, const char *conf) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct party *it = party(words[1]);
  char *uapi;
  int pair[2];
  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  options.flags = WG_OPTIONS_QUEUE_EVENTS;
  CHECK_EQ(wg_conf_parse(conf, strlen(conf), &uapi, NULL), WG_OK);
  it->end.handle = wg_turn_on_with(&options, uapi);
  it->end.app = pair[1];
  CHECK(it->end.handle > 0);
  wg_free(uapi);
  strcpy(it->conf, conf);
}

static wg_result_t apply(const char *name, const char *conf) {
  struct party *it = tunnel(name);
  char *changes;
  wg_result_t result = wg_conf_changes(it->conf, strlen(it->conf), conf, strlen(conf), &changes);
  if (result != WG_OK) return result;
  result = wg_set_config(it->end.handle, changes);
  wg_free(changes);
  if (result == WG_OK) strcpy(it->conf, conf);
  return result;
}

static void update(char **words, const char *conf) { CHECK_EQ(apply(words[1], conf), WG_OK); }

static void refused(char **words, const char *conf) { CHECK_EQ(apply(words[1], conf), value_of(codes, words[2])); }

/* An IPv4 packet between two addresses, with a number of its own. */
static void make_numbered(unsigned char packet[24], const char *source, const char *destination) {
  make_packet(packet, 24, 0, 0, 0);
  CHECK_EQ(inet_pton(AF_INET, source, packet + 12), 1);
  CHECK_EQ(inet_pton(AF_INET, destination, packet + 16), 1);
  packet_number++;
  memcpy(packet + 20, &packet_number, 4);
}

static void pass(char **words, const char *conf) {
  unsigned char packet[24], got[2000];
  struct pollfd ready = {0, POLLIN, 0};
  int tries;
  (void)conf;
  ready.fd = tunnel(words[2])->end.app;
  make_numbered(packet, words[3], words[4]);
  for (tries = 0; tries < 60; tries++) {
    CHECK_EQ(send(tunnel(words[1])->end.app, packet, sizeof packet, 0), sizeof packet);
    while (poll(&ready, 1, 1000) == 1)
      if (recv(ready.fd, got, sizeof got, 0) == sizeof packet && memcmp(got, packet, sizeof packet) == 0) return;
  }
  CHECK(!"the packet has come");
}

static void send_one(char **words, const char *conf) {
  unsigned char packet[24];
  (void)conf;
  make_numbered(packet, words[2], words[3]);
  CHECK_EQ(send(tunnel(words[1])->end.app, packet, sizeof packet, 0), sizeof packet);
}

static void event(char **words, const char *conf) {
  struct party *it = tunnel(words[1]);
  const uint8_t *key = party(words[3])->public_key;
  uint32_t kind = (uint32_t)value_of(kinds, words[2]);
  size_t i;
  (void)conf;
  for (i = 0;; i++) {
    wg_event_t *found = &it->events[i];
    CHECK(i < MAX_EVENTS);
    if (i == it->event_count) {
      found->struct_size = sizeof *found;
      CHECK_EQ(wg_next_event(it->end.handle, found, TRIES), 1);
      it->event_count++;
    }
    if (found->kind == kind && memcmp(found->public_key, key, WG_KEY_LEN) == 0) break;
  }
  it->event_count--;
  memmove(&it->events[i], &it->events[i + 1], (it->event_count - i) * sizeof it->events[0]);
}

static wg_peer_stats_t peer_stats(char **words) {
  wg_peer_stats_t stats = WG_PEER_STATS_INIT;
  CHECK_EQ(wg_peer_stats(tunnel(words[1])->end.handle, party(words[2])->public_key, &stats), WG_OK);
  return stats;
}

static void session(char **words, const char *conf) {
  wg_peer_stats_t now = peer_stats(words), *before = &party(words[1])->sessions[party(words[2]) - parties];
  (void)conf;
  CHECK(now.has_session && now.last_handshake_sec > 0);
  if (before->has_session) {
    CHECK_EQ(now.last_handshake_sec, before->last_handshake_sec);
    CHECK_EQ(now.last_handshake_nsec, before->last_handshake_nsec);
  }
  *before = now;
}

static void traffic(char **words, const char *conf) {
  wg_peer_stats_t stats = peer_stats(words);
  (void)conf;
  CHECK(stats.rx_bytes > 0 && stats.tx_bytes > 0);
}

static void counts(char **words, const char *conf) {
  int tries;
  (void)conf;
  for (tries = 0; tries < TRIES && counter(tunnel(words[1])->end, words[2]) != strtoull(words[3], NULL, 10); tries++)
    sleep_ms(1);
  CHECK_EQ(counter(tunnel(words[1])->end, words[2]), atoll(words[3]));
}

static void peers(char **words, const char *conf) {
  wg_stats_t stats = WG_STATS_INIT;
  (void)conf;
  CHECK_EQ(wg_stats(tunnel(words[1])->end.handle, &stats), WG_OK);
  CHECK_EQ(stats.peers, atoll(words[2]));
}

static void network(char **words, const char *conf) {
  (void)conf;
  CHECK_EQ(wg_network_changed(tunnel(words[1])->end.handle), WG_OK);
}

static void off(char **words, const char *conf) {
  struct party *it = tunnel(words[1]);
  (void)conf;
  turn_off(it->end);
  CHECK_EQ(wg_network_changed(it->end.handle), WG_ERR_UNKNOWN_HANDLE);
  it->end.handle = 0;
}

static const struct step {
  const char *name;
  size_t words;
  void (*run)(char **words, const char *conf);
} steps[] = {
    {"on", 2, on},           {"update", 2, update},   {"refused", 3, refused}, {"pass", 5, pass},
    {"send", 4, send_one},   {"event", 4, event},     {"session", 3, session}, {"traffic", 3, traffic},
    {"counter", 4, counts},  {"peers", 3, peers},     {"network", 2, network}, {"off", 2, off},
};

/* Runs a step, if there is one. */
static void run(const char *file, char *step, const char *text) {
  char *words[MAX_WORDS + 1] = {NULL}, conf[MAX_CONF] = "", *word;
  size_t i, count = 0;
  if (*step == '\0') return;
  printf("%s: %s\n", file, step);
  fflush(stdout);
  for (word = strtok(step, " "); word != NULL && count <= MAX_WORDS; word = strtok(NULL, " ")) words[count++] = word;
  fill(text, conf);
  for (i = 0; i < sizeof steps / sizeof steps[0]; i++)
    if (strcmp(steps[i].name, words[0]) == 0) {
      CHECK_EQ(count, steps[i].words);
      steps[i].run(words, conf);
      return;
    }
  fprintf(stderr, "%s: %s is no step\n", file, words[0]);
  exit(1);
}

static void converse(const char *path) {
  char line[256], step[256] = "", text[MAX_CONF] = "";
  FILE *file = fopen(path, "r");
  CHECK(file != NULL);
  memset(parties, 0, sizeof parties);
  party_count = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    CHECK(strchr(line, '\n') != NULL);
    if (line[0] == ' ') {
      CHECK(strlen(text) + strlen(line) < sizeof text);
      strcat(text, line);
    } else if (line[0] != '\n' && line[0] != '#') {
      run(path, step, text);
      line[strlen(line) - 1] = '\0';
      strcpy(step, line);
      text[0] = '\0';
    }
  }
  run(path, step, text);
  CHECK_EQ(fclose(file), 0);
}

int main(int argc, char **argv) {
  glob_t found;
  size_t i;
  if (argc > 1) {
    for (i = 1; i < (size_t)argc; i++) converse(argv[i]);
    return 0;
  }
  CHECK_EQ(glob("tests/scenarios/*.txt", 0, NULL, &found), 0);
  for (i = 0; i < found.gl_pathc; i++) converse(found.gl_pathv[i]);
  printf("%zu scenarios\n", found.gl_pathc);
  globfree(&found);
  return 0;
}
