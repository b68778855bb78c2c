/*
 * A program that runs its tunnel as a service of its own, with the library of wg-embed in place of wireguard-windows'
 * tunnel.dll. As administrator:
 *
 *     x86_64-w64-mingw32-gcc -municode -O2 -Iinclude windows/c/service.c -o service.exe -L. -lwg_embed
 *     service.exe /install C:\App\office.conf
 *     service.exe /remove office
 *
 * wg_embed.dll and wintun.dll are in the folder of the program. "/service" is what the service manager starts.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdio.h>
#include <wchar.h>

#include "compat/windows.h"
#include "wg_embed.h"

#define PREFIX L"WireGuardTunnel$"

static int fail(const char *what) {
  fprintf(stderr, "%s: error %lu\n", what, GetLastError());
  return 1;
}

/* The name of the service: PREFIX, and the name of the file without ".conf" or ".conf.dpapi". */
static void service_name(const wchar_t *conf, wchar_t *name, size_t room) {
  const wchar_t *file = wcsrchr(conf, L'\\');
  wchar_t *dot;
  swprintf(name, room, PREFIX L"%ls", file ? file + 1 : conf);
  dot = wcsstr(name, L".conf");
  if (dot) *dot = 0;
}

static int install(const wchar_t *conf) {
  wchar_t program[MAX_PATH], command[3 * MAX_PATH], name[MAX_PATH];
  SERVICE_SID_INFO sid = {SERVICE_SID_TYPE_UNRESTRICTED};
  SC_HANDLE manager, service;
  int result = 0;
  if (!GetModuleFileNameW(NULL, program, MAX_PATH)) return fail("GetModuleFileName");
  swprintf(command, 3 * MAX_PATH, L"\"%ls\" /service \"%ls\"", program, conf);
  service_name(conf, name, MAX_PATH);
  manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CREATE_SERVICE);
  if (!manager) return fail("OpenSCManager");
  /* The two services are there once addresses can be set. NULL is the account LocalSystem. */
  service = CreateServiceW(manager, name, name, SERVICE_ALL_ACCESS, SERVICE_WIN32_OWN_PROCESS, SERVICE_AUTO_START,
                           SERVICE_ERROR_NORMAL, command, NULL, NULL, L"Nsi\0TcpIp\0", NULL, NULL);
  if (!service) {
    result = fail("CreateService");
  } else {
    /* The firewall knows the service by its SID. Wine has none. */
    if (!ChangeServiceConfig2W(service, SERVICE_CONFIG_SERVICE_SID_INFO, &sid)) fail("SERVICE_CONFIG_SERVICE_SID_INFO");
    if (!StartServiceW(service, 0, NULL)) result = fail("StartService");
    CloseServiceHandle(service);
  }
  CloseServiceHandle(manager);
  return result;
}

static int remove_service(const wchar_t *tunnel) {
  wchar_t name[MAX_PATH];
  SERVICE_STATUS status;
  SC_HANDLE manager, service;
  int result = 0;
  swprintf(name, MAX_PATH, PREFIX L"%ls", tunnel);
  manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CONNECT);
  if (!manager) return fail("OpenSCManager");
  service = OpenServiceW(manager, name, SERVICE_STOP | DELETE);
  if (!service) {
    result = fail("OpenService");
  } else {
    /* It may have ended by itself. */
    ControlService(service, SERVICE_CONTROL_STOP, &status);
    if (!DeleteService(service)) result = fail("DeleteService");
    CloseServiceHandle(service);
  }
  CloseServiceHandle(manager);
  return result;
}

static int keys(void) {
  uint8_t public_key[WG_KEY_LEN], private_key[WG_KEY_LEN];
  char text[WG_KEY_BASE64_LEN];
  WireGuardGenerateKeypair(public_key, private_key);
  SecureZeroMemory(private_key, sizeof private_key); /* An app would write it to its .conf file. */
  if (wg_keys_to_base64(public_key, text) != WG_OK) return 1;
  printf("wg-embed %s, a public key: %s\n", wg_version_string(), text);
  return 0;
}

int wmain(int count, wchar_t **words) {
  if (count == 3 && !wcscmp(words[1], L"/install")) return install(words[2]);
  if (count == 3 && !wcscmp(words[1], L"/remove")) return remove_service(words[2]);
  if (count == 2 && !wcscmp(words[1], L"/keys")) return keys();
  if (count == 3 && !wcscmp(words[1], L"/service")) {
    if (WireGuardTunnelService(words[2])) return 0;
    fprintf(stderr, "the tunnel has failed: %s\n", wg_last_error());
    return 1;
  }
  fprintf(stderr, "usage: service /install CONF | /remove NAME | /keys\n");
  return 2;
}
