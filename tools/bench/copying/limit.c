/* The limit for large objects: raw sockets, OpenSSL when the origin is https, one read and one write for each piece, crc32c by the
   processor's own instruction.  limit HOST PORT TLS CA OBJECTS SIZE */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nmmintrin.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (256 * 1024)
static int tls;
static SSL_CTX *context;
typedef struct { int fd; SSL *ssl; } Peer;

static Peer reach(const char *host, int port) {
    Peer peer = {socket(AF_INET, SOCK_STREAM, 0), NULL};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    if (connect(peer.fd, (struct sockaddr *)&address, sizeof address)) { perror("connect"); exit(1); }
    setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (tls) {
        peer.ssl = SSL_new(context); SSL_set_fd(peer.ssl, peer.fd);
        if (SSL_connect(peer.ssl) != 1) { fprintf(stderr, "no TLS\n"); exit(1); }
    }
    return peer;
}
static long from(Peer peer, char *into, long most) { return tls ? SSL_read(peer.ssl, into, most) : read(peer.fd, into, most); }
static void to(Peer peer, const char *data, long size) {
    while (size > 0) {
        long sent = tls ? SSL_write(peer.ssl, data, size) : write(peer.fd, data, size);
        if (sent <= 0) { fprintf(stderr, "write failed\n"); exit(1); }
        data += sent; size -= sent;
    }
}
static unsigned crc32c(unsigned crc, const char *data, long size) {
    unsigned long long state = ~crc & 0xffffffffu;
    for (; size >= 8; data += 8, size -= 8) { unsigned long long word; memcpy(&word, data, 8); state = _mm_crc32_u64(state, word); }
    for (; size > 0; data++, size--) state = _mm_crc32_u8((unsigned)state, *data);
    return ~(unsigned)state;
}
static long head(Peer peer, char *buffer, long *rest) {
    long have = 0; char *end;
    do {
        long got = from(peer, buffer + have, PIECE - have);
        if (got <= 0) { fprintf(stderr, "no answer\n"); exit(1); }
        have += got; buffer[have] = 0;
    } while (!(end = strstr(buffer, "\r\n\r\n")));
    if (strncmp(buffer, "HTTP/1.1 200", 12)) { fprintf(stderr, "%.40s\n", buffer); exit(1); }
    *rest = have - (end + 4 - buffer);
    return end + 4 - buffer;
}
int main(int argc, char **argv) {
    if (argc != 7) { fprintf(stderr, "limit HOST PORT TLS CA OBJECTS SIZE\n"); return 2; }
    long objects = atol(argv[5]), size = atol(argv[6]); int port = atoi(argv[2]);
    static char buffer[PIECE + 1];
    tls = atoi(argv[3]);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(context, argv[4], NULL); SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    Peer source = reach(argv[1], port), sink = reach(argv[1], port);
    unsigned all = 0;
    for (long number = 0; number < objects; number++) {
        char request[512]; long left = size, rest, at; unsigned crc = 0;
        int length = snprintf(request, sizeof request, "GET /source/%03ld/object-%07ld HTTP/1.1\r\nHost: x\r\n\r\n", number / 1000, number);
        to(source, request, length);
        length = snprintf(request, sizeof request, "PUT /sink/object-%07ld HTTP/1.1\r\nHost: x\r\nContent-Length: %ld\r\n\r\n", number, size);
        to(sink, request, length);
        at = head(source, buffer, &rest);
        if (rest) { crc = crc32c(crc, buffer + at, rest); to(sink, buffer + at, rest); left -= rest; }
        while (left > 0) {
            long got = from(source, buffer, left < PIECE ? left : PIECE);
            if (got <= 0) { fprintf(stderr, "cut\n"); return 1; }
            crc = crc32c(crc, buffer, got); to(sink, buffer, got); left -= got;
        }
        head(sink, buffer, &rest);
        all ^= crc;
    }
    printf("%ld %08x\n", objects, all);
    return 0;
}
