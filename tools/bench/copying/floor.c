/* The floor: the same copy in C on libcurl's multi interface, with epoll, buffered bodies and reused handles; it checks statuses and
   sizes, and nothing else: no hashes, no metadata, no verdicts.  floor ORIGIN CA OBJECTS SIZE SLOTS */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

typedef struct { CURL *get, *put; char *body; size_t got; long number; struct curl_slist *headers; char hash[64]; } Slot;

static CURLM *multi;
static int epoll_fd;
static long timeout_ms = -1, next_object, objects, size, done, wrong;
static const char *origin;

static size_t take(char *data, size_t one, size_t count, void *into) {
    Slot *slot = into; size_t bytes = one * count;
    if (slot->got + bytes > (size_t)size) return 0;
    memcpy(slot->body + slot->got, data, bytes); slot->got += bytes; return bytes;
}
static size_t drop(char *data, size_t one, size_t count, void *into) { (void)data; (void)into; return one * count; }
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known) {
    (void)easy; (void)user;
    struct epoll_event event = {.data.fd = fd};
    if (what == CURL_POLL_REMOVE) { epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL); return 0; }
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
    if (epoll_ctl(epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event))
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    curl_multi_assign(multi, fd, &multi);
    return 0;
}
static int on_timer(CURLM *m, long ms, void *user) { (void)m; (void)user; timeout_ms = ms; return 0; }

static void begin(Slot *slot) {
    char url[512];
    if (next_object >= objects) return;
    slot->number = next_object++; slot->got = 0;
    snprintf(url, sizeof url, "%s/source/%03ld/object-%07ld", origin, slot->number / 1000, slot->number);
    curl_easy_setopt(slot->get, CURLOPT_URL, url);
    curl_multi_add_handle(multi, slot->get);
}
static void finish(void) {
    CURLMsg *message; int left;
    while ((message = curl_multi_info_read(multi, &left))) {
        if (message->msg != CURLMSG_DONE) continue;
        CURL *easy = message->easy_handle; Slot *slot; long status = 0;
        int ok = message->data.result == CURLE_OK;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&slot);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        curl_multi_remove_handle(multi, easy);
        if (!ok || status != 200 || (easy == slot->get && slot->got != (size_t)size)) { wrong++; begin(slot); continue; }
        if (easy == slot->get) {
            char url[512];
            snprintf(url, sizeof url, "%s/sink/%03ld/object-%07ld", origin, slot->number / 1000, slot->number);
            curl_easy_setopt(slot->put, CURLOPT_URL, url);
            curl_easy_setopt(slot->put, CURLOPT_POSTFIELDS, slot->body);
            curl_easy_setopt(slot->put, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)slot->got);
            curl_multi_add_handle(multi, slot->put);
        } else { done++; begin(slot); }
    }
}
int main(int argc, char **argv) {
    if (argc != 6) { fprintf(stderr, "floor ORIGIN CA OBJECTS SIZE SLOTS\n"); return 2; }
    origin = argv[1]; objects = atol(argv[3]); size = atol(argv[4]);
    int slots = atoi(argv[5]), running = 0;
    curl_global_init(CURL_GLOBAL_ALL);
    multi = curl_multi_init(); epoll_fd = epoll_create1(0);
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, 2L * slots + 16);
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    Slot *all = calloc(slots, sizeof *all);
    for (int index = 0; index < slots; index++) {
        Slot *slot = &all[index];
        slot->body = malloc(size + 1); slot->get = curl_easy_init(); slot->put = curl_easy_init();
        slot->headers = curl_slist_append(NULL, "Expect:");
        slot->headers = curl_slist_append(slot->headers, "content-type: application/octet-stream");
        CURL *both[2] = {slot->get, slot->put};
        for (int side = 0; side < 2; side++) {
            curl_easy_setopt(both[side], CURLOPT_PRIVATE, slot);
            curl_easy_setopt(both[side], CURLOPT_CAINFO, argv[2]);
            curl_easy_setopt(both[side], CURLOPT_NOSIGNAL, 1L);
            curl_easy_setopt(both[side], CURLOPT_BUFFERSIZE, 262144L);
            curl_easy_setopt(both[side], CURLOPT_UPLOAD_BUFFERSIZE, 262144L);
            curl_easy_setopt(both[side], CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
            curl_easy_setopt(both[side], CURLOPT_WRITEFUNCTION, side ? drop : take);
            curl_easy_setopt(both[side], CURLOPT_WRITEDATA, slot);
        }
        curl_easy_setopt(slot->put, CURLOPT_POST, 1L);
        curl_easy_setopt(slot->put, CURLOPT_CUSTOMREQUEST, "PUT");
        curl_easy_setopt(slot->put, CURLOPT_HTTPHEADER, slot->headers);
        begin(slot);
    }
    struct epoll_event events[1024];
    while (done + wrong < objects) {
        int count = epoll_wait(epoll_fd, events, 1024, timeout_ms < 0 ? 1000 : (int)timeout_ms);
        if (count == 0) { timeout_ms = -1; curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running); }
        for (int index = 0; index < count; index++) {
            unsigned happened = events[index].events;
            int what = (happened & EPOLLIN ? CURL_CSELECT_IN : 0) | (happened & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (happened & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
            curl_multi_socket_action(multi, events[index].data.fd, what, &running);
        }
        if (timeout_ms == 0) { timeout_ms = -1; curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running); }
        finish();
    }
    printf("%ld\n", done);
    return wrong ? 1 : 0;
}
