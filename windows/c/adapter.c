/*
 * A tunnel over a network adapter of its own, without a service. As administrator:
 *
 *     x86_64-w64-mingw32-gcc -municode -O2 -Iinclude windows/c/adapter.c -o adapter.exe -L. -lwg_embed
 *     adapter.exe office C:\App\office.conf
 *
 * wg_embed.dll and wintun.dll are in the folder of the program. The adapter is removed when Enter is pressed.
 *
 * The addresses and routes of the file are left to the program, which gives them to Windows by
 * CreateUnicastIpAddressEntry() and CreateIpForwardEntry2(), with the LUID that ConvertInterfaceAliasToLuid() returns
 * for the name. This one prints them.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "wg_embed.h"

enum { MAX_NAME = 4 * 128, MAX_FILE = 1 << 20 };

static int fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

static void on_event(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle;
  if (event->kind == WG_EVENT_ENDED) fprintf(stderr, "the tunnel has ended: %s\n", event->reason);
}

/* Parses the file into `uapi` and `settings`. Its text is wiped, as it has keys. */
static int read_conf(const wchar_t *path, char **uapi, char **settings) {
  char *conf = malloc(MAX_FILE);
  FILE *file = _wfopen(path, L"rb");
  int read = 0;
  if (conf && file) {
    size_t length;
    setvbuf(file, NULL, _IONBF, 0); /* Its buffer would not be wiped. */
    length = fread(conf, 1, MAX_FILE, file);
    if (ferror(file) || length == MAX_FILE)
      fail("the file", "it cannot be read, or is too large");
    else if (wg_conf_parse(conf, length, uapi, settings) != WG_OK)
      fail("the file", wg_last_error());
    else
      read = 1;
    SecureZeroMemory(conf, MAX_FILE);
  } else {
    fail("the file", "it cannot be opened");
  }
  if (file) fclose(file);
  free(conf);
  return read;
}

/* Prints the lines of a text with this key, with another name for it. */
static void print(const char *text, const char *key, const char *name) {
  size_t length = strlen(key);
  const char *line, *end;
  for (line = text; (end = strchr(line, '\n')) != NULL; line = end + 1) {
    if (!strncmp(line, key, length)) printf("%s%.*s\n", name, (int)(end - line - length), line + length);
  }
}

/* Prints what is left to do. */
static void print_network(const char *settings, const char *uapi) {
  print(settings, "address=", "address ");
  print(uapi, "allowed_ip=", "route ");
  print(settings, "dns=", "name server ");
}

/* The MTU of the file; 0 if it has none. */
static uint32_t mtu_of(const char *settings) {
  const char *line = !strncmp(settings, "mtu=", 4) ? settings : strstr(settings, "\nmtu=");
  return line ? (uint32_t)strtoul(strchr(line, '=') + 1, NULL, 10) : 0;
}

int wmain(int count, wchar_t **words) {
  wg_options_t options = WG_OPTIONS_INIT;
  char name[MAX_NAME], *uapi, *settings;
  int32_t handle;
  if (count != 3) return fail("usage", "adapter.exe NAME FILE.conf");
  if (!WideCharToMultiByte(CP_UTF8, 0, words[1], -1, name, MAX_NAME, NULL, NULL)) return fail("NAME", "it is too long");
  if (!read_conf(words[2], &uapi, &settings)) return 1;
  options.interface_name = name;
  options.mtu = mtu_of(settings);
  options.resolve = wg_resolve_system;
  options.event = on_event;
  print_network(settings, uapi);
  handle = wg_turn_on_with(&options, uapi);
  wg_free(uapi);
  wg_free(settings);
  if (handle < 0) return fail(name, wg_last_error());
  printf("%s is up, on port %d. Press Enter to end it.\n", name, (int)wg_listen_port(handle));
  fflush(stdout);
  getchar();
  return wg_turn_off(handle) == WG_OK ? 0 : fail(name, wg_last_error());
}
