/* Runs an exported network on pictures from a file of the host, by semihosting, and counts instructions.
 *
 * Reads pictures.bin, writes logits.bin, and prints "instructions N", "stack N" and, with -DPROFILE, one line
 * an op. NAME.c is included as it stands, so that its ops can be called one by one.
 */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define QUOTE_(a) #a
#define QUOTE(a) QUOTE_(a)
#include QUOTE(NETWORK.c)

#include "board.h"

static long open_file(const char *name, long length, long mode)
{
    long block[3];
    block[0] = (long)name;
    block[1] = mode;
    block[2] = length;
    return semihost(1, block);
}
static long transfer(long op, long file, void *data, long bytes) /* returns what was not transferred */
{
    long block[3];
    block[0] = file;
    block[1] = (long)data;
    block[2] = bytes;
    return semihost(op, block);
}

#if defined(__riscv)
#define MOVE "mv"
#else
#define MOVE "mov"
#endif
#define CONTEXT JOIN(NETWORK, _context)
#define INIT JOIN(NETWORK, _init)
#define RUN JOIN(NETWORK, _run)
static uint64_t arena[(ARENA + 7) / 8];
static uint8_t picture[INPUT];
static float logits[CLASSES];
static CONTEXT network;

__attribute__((noinline)) static uint32_t stack_used(void)
{
    uint32_t *low = (uint32_t *)(void *)&_stack_low;
    while (*low == 0xa5a5a5a5u) {
        low++;
    }
    return (uint32_t)((uint8_t *)&_stack_top - (uint8_t *)low);
}

__attribute__((always_inline)) static inline void *stack_pointer(void)
{
    void *sp;
    __asm__ volatile(MOVE " %0, sp" : "=r"(sp));
    return sp;
}

int main(void)
{
    uint32_t count = 0, first = 0, used, base;
    const long in = open_file("pictures.bin", 12, 1);
    const long out = open_file("logits.bin", 10, 5);
    volatile uint32_t *word = &_stack_low;
    if (INIT(&network, arena, sizeof arena) != 0) {
        print("init failed\n");
    }
    while (word < (volatile uint32_t *)stack_pointer() - 8) {
        *word++ = 0xa5a5a5a5u;
    }
    base = (uint32_t)((uint8_t *)&_stack_top - (uint8_t *)stack_pointer());
    while (transfer(6, in, picture, INPUT) == 0) {
        uint32_t start, spent;
        clock_start();
        start = now();
        if (RUN(&network, picture, logits) != 0) {
            print("run failed\n");
            break;
        }
        spent = since(start);
        if (count == 0) {
            first = spent;
            used = stack_used();
        }
        transfer(5, out, logits, (long)sizeof logits);
        count++;
    }
    print_number("pictures", count);
    print_number("instructions", first);
    print_number("stack", used > base ? used - base : 0);
#ifdef PROFILE
    {
        bsk_run run;
        run.arena = (uint8_t *)arena;
        run.in = picture;
        run.out = logits;
        PROFILE
    }
#endif
    leave();
    return 0;
}
