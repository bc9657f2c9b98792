/* Reads pictures from standard input, writes logits; the arena is full of rubbish before each. */
#include "net.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    /* on the heap and of the exact size, so that a sanitizer sees the byte beyond */
    uint8_t *picture = malloc(NET_INPUT_BYTES);
    void *arena = malloc(NET_ARENA_BYTES);
    float *logits = malloc(NET_CLASSES * sizeof *logits);
    net_context network;
    if (!picture || !arena || !logits || net_init(&network, arena, NET_ARENA_BYTES) != NET_OK) {
        return 2;
    }
    while (fread(picture, 1, NET_INPUT_BYTES, stdin) == NET_INPUT_BYTES) {
        memset(arena, 0xa5, NET_ARENA_BYTES);
        if (net_run(&network, picture, logits) != NET_OK) {
            return 3;
        }
        fwrite(logits, sizeof *logits, NET_CLASSES, stdout);
    }
    free(picture);
    free(arena);
    free(logits);
    return 0;
}
