/* .conf files: what the tunnel is told and what the system is told, and files that are refused. */
#include "check.h"

#define KEY "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
#define PEER "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

static const char file[] =
    "# \xe9 in a comment\r\n"
    "[Interface]\n"
    "PrivateKey = " KEY "\n"
    "Address = 10.0.0.2/24, fd00::2\n"
    "DNS = 1.1.1.1, corp.example\n"
    "MTU = 1400\n"
    "Table = 1234\n"
    "PreUp = echo %i = up\n"
    "PostUp = one\nPostUp = two\n"
    "PreDown = true\nPostDown = false\n"
    "SaveConfig = true\n"
    "ExcludedApplications = com.example.one, com.example.two\n"
    "[Peer]\n"
    "PublicKey = " PEER "\n"
    "Endpoint = 192.0.2.1:51820\n"
    "AllowedIPs = 0.0.0.0/0, ::/0\n"
    "PersistentKeepalive = 25\n";

/* A text without its zero. */
static wg_result_t parse(const char *conf, char **uapi, char **settings) {
  return wg_conf_parse(conf, strlen(conf), uapi, settings);
}

static void both_halves(void) {
  char *uapi = NULL, *settings = NULL, *state = NULL;
  int pair[2], tunnel;
  CHECK_EQ(parse(file, &uapi, &settings), WG_OK);
  CHECK_TEXT(settings,
             "address=10.0.0.2/24\naddress=fd00::2/128\ndns=1.1.1.1\nsearch=corp.example\nmtu=1400\ntable=1234\n"
             "pre_up=echo %i = up\npost_up=one\npost_up=two\npre_down=true\npost_down=false\nsave_config=true\n"
             "excluded_application=com.example.one\nexcluded_application=com.example.two\n");
  CHECK(strstr(uapi, "private_key=c809f3e5317e9575c9b5ed78b638b7ce530dabe85ddab614220241801ddf0669\n") == uapi);
  CHECK(strstr(uapi, "\nreplace_peers=true\n") != NULL && strstr(uapi, "\nendpoint=192.0.2.1:51820\n") != NULL);

  /* It is what a tunnel takes, and takes in place of what it has. */
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
  tunnel = wg_turn_on(pair[0], uapi);
  CHECK(tunnel > 0);
  CHECK_EQ(wg_set_config(tunnel, "public_key=" PUBLIC_A "\n"), WG_OK);
  CHECK_EQ(wg_set_config(tunnel, uapi), WG_OK);
  CHECK_EQ(wg_get_config(tunnel, &state), WG_OK);
  CHECK(strstr(state, "allowed_ip=::/0\n") != NULL && strstr(state, PUBLIC_A) == NULL);
  CHECK_EQ(wg_turn_off(tunnel), WG_OK);
  close(pair[1]);
  wg_free(state);
  wg_free(uapi);
  wg_free(settings);

  CHECK_EQ(parse("[Interface]\n", &uapi, &settings), WG_OK);
  CHECK_TEXT(settings, "");
  wg_free(uapi);
  wg_free(settings);

  /* Those who need no settings leave them out. */
  CHECK_EQ(parse(file, &uapi, NULL), WG_OK);
  CHECK(strstr(uapi, "\nreplace_peers=true\n") != NULL);
  wg_free(uapi);
}

/* A file whole, of any bytes: exactly those that are there are read. */
static void bytes_as_they_are(void) {
  static const char utf8[] = "[Interface]\nMTU = 1400\n";
  static const char with_zero[] = "[Interface]\n# \0 in a comment\nMTU = 1400\nPostUp = a";
  char utf16[2 * sizeof utf8], *exact, *uapi, *settings;
  size_t i, len;
  utf16[0] = '\xff', utf16[1] = '\xfe';
  for (i = 0; i + 1 < sizeof utf8; i++) utf16[2 + 2 * i] = utf8[i], utf16[3 + 2 * i] = 0;
  CHECK_EQ(wg_conf_parse(utf16, sizeof utf16, &uapi, &settings), WG_OK);
  CHECK_TEXT(settings, "mtu=1400\n");
  wg_free(uapi);
  wg_free(settings);
  CHECK_FAILS(wg_conf_parse(utf16, sizeof utf16 - 1, &uapi, &settings), WG_ERR_INVALID, "line 2");

  len = sizeof with_zero - 1;
  exact = malloc(len); /* nothing behind it is read, as sanitizers see */
  CHECK(exact != NULL);
  memcpy(exact, with_zero, len);
  CHECK_EQ(wg_conf_parse(exact, len, &uapi, &settings), WG_OK);
  CHECK_TEXT(settings, "mtu=1400\npost_up=a\n");
  wg_free(uapi);
  wg_free(settings);
  exact[len - 1] = 0; /* the value's last byte, and only one */
  CHECK_FAILS(wg_conf_parse(exact, len, &uapi, &settings), WG_ERR_INVALID, "line 4: [Interface] PostUp");
  free(exact);
}

/* Each value is one line, wherever lines are split. */
static void values_are_lines(void) {
  char *uapi, *settings;
  CHECK_FAILS(parse("[Interface]\nPostUp = SECRET\raddress=10.0.0.1/8\n", &uapi, &settings), WG_ERR_INVALID,
              "line 2: [Interface] PostUp");
  CHECK(strstr(wg_last_error(), "SECRET") == NULL);
  CHECK_FAILS(parse("[Interface]\n\nIncludedApplications = a\fexcluded_application=b\n", &uapi, &settings),
              WG_ERR_INVALID, "line 3: [Interface] IncludedApplications");
  CHECK_EQ(parse("[Interface]\r\nPostUp = a\tb\r\n", &uapi, &settings), WG_OK);
  CHECK_TEXT(settings, "post_up=a\tb\n");
  wg_free(uapi);
  wg_free(settings);
}

static void refused(void) {
  char *uapi = (char *)&uapi, *settings = (char *)&settings;
  CHECK_FAILS(wg_conf_parse(NULL, 0, &uapi, &settings), WG_ERR_NULL, "conf is NULL");
  CHECK_FAILS(parse(file, NULL, &settings), WG_ERR_NULL, "uapi is NULL");
  CHECK_FAILS(wg_conf_parse(file, WG_CONFIG_LEN_MAX + 1, &uapi, &settings), WG_ERR_TOO_LARGE, "bytes of conf");
  CHECK_FAILS(wg_conf_parse(file, SIZE_MAX, &uapi, &settings), WG_ERR_TOO_LARGE, "bytes of conf");
  CHECK_FAILS(wg_conf_parse(file, 0, &uapi, &settings), WG_ERR_INVALID, "without an [Interface]");
  CHECK_FAILS(parse("[Interface]\n\nMTU = 1\n", &uapi, &settings), WG_ERR_INVALID, "line 3");
  CHECK_EQ(parse("", &uapi, &settings), WG_ERR_INVALID);
  CHECK_EQ(parse("[Interface]\nPrivateKey = " KEY "x\n", &uapi, &settings), WG_ERR_INVALID);
  CHECK(strstr(wg_last_error(), "yAnz5") == NULL);
  CHECK(uapi == (char *)&uapi && settings == (char *)&settings); /* not written on failure */
}

/* What is different, and nothing else: peers that stay keep their sessions. */
static void changes(void) {
  static const char before[] = "[Interface]\nListenPort = 7\nMTU = 1400\n[Peer]\nPublicKey = " PEER "\n";
  static const char now[] = "[Interface]\nListenPort = 7\n[Peer]\nPublicKey = " PEER "\nAllowedIPs = ::/0\n"
                            "[Peer]\nPublicKey = " KEY "\n";
  char *uapi = NULL;
  CHECK_EQ(wg_conf_changes(before, strlen(before), before, strlen(before), &uapi), WG_OK);
  CHECK_TEXT(uapi, "");
  wg_free(uapi);
  CHECK_EQ(wg_conf_changes(before, strlen(before), now, strlen(now), &uapi), WG_OK);
  CHECK(strstr(uapi, "\nallowed_ip=::/0\n") != NULL && strstr(uapi, "listen_port") == NULL);
  CHECK(strstr(uapi, "replace_peers") == NULL && strstr(uapi, "remove=") == NULL);
  wg_free(uapi);
  CHECK_EQ(wg_conf_changes(now, strlen(now), before, strlen(before), &uapi), WG_OK);
  CHECK(strstr(uapi, "\nremove=true\n") != NULL);
  wg_free(uapi);

  uapi = (char *)&uapi;
  CHECK_FAILS(wg_conf_changes(NULL, 0, now, strlen(now), &uapi), WG_ERR_NULL, "before is NULL");
  CHECK_FAILS(wg_conf_changes(before, strlen(before), NULL, 0, &uapi), WG_ERR_NULL, "now is NULL");
  CHECK_FAILS(wg_conf_changes(before, strlen(before), now, strlen(now), NULL), WG_ERR_NULL, "uapi is NULL");
  CHECK_FAILS(wg_conf_changes(before, SIZE_MAX, now, strlen(now), &uapi), WG_ERR_TOO_LARGE, "bytes of before");
  CHECK_FAILS(wg_conf_changes(before, strlen(before), now, 5, &uapi), WG_ERR_INVALID, "line 1");
  CHECK(uapi == (char *)&uapi); /* not written on failure */
}

int main(void) {
  changes();
  both_halves();
  bytes_as_they_are();
  values_are_lines();
  refused();
  return 0;
}
