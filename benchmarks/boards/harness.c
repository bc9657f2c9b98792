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

#if defined(__riscv)
static long semihost(long op, const void *argument)
{
    register long a0 __asm__("a0") = op;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n.option norvc\n.balign 16\nslli zero, zero, 0x1f\nebreak\nsrai zero, zero, 7\n.option pop"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}
static uint32_t now(void)
{
    uint32_t v;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop" : "=r"(v));
    return v;
}
static uint32_t since(uint32_t start) { return now() - start; }
static void clock_start(void) {}
#define FIRST_STACK_WORD ((uint32_t *)(void *)&_stack_low)
#else
static long semihost(long op, const void *argument)
{
    register long r0 __asm__("r0") = op;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
#define SYST_CSR (*(volatile uint32_t *)0xE000E010)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018)
static uint32_t now(void) { return SYST_CVR; }
static uint32_t since(uint32_t start) { return ((start - SYST_CVR) & 0xffffffu) * 40u; } /* 25 MHz; an instruction is 1 ns */
static void clock_start(void)
{
    SYST_CSR = 0;
    SYST_RVR = 0xffffff;
    SYST_CVR = 0;
    SYST_CSR = 5;
}
#endif

extern uint32_t _stack_low, _stack_top;

static void print(const char *text) { semihost(4, text); }
static void print_number(const char *label, uint32_t value)
{
    char digits[12];
    int at = 11;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    print(label);
    print(" ");
    print(digits + at);
    print("\n");
}
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
    while (word < (volatile uint32_t *)__builtin_frame_address(0) - 24) { /* main's own frame is above */
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
    {
        long block[2];
        block[0] = 0x20026;
        block[1] = 0;
        semihost(0x20, block);
        semihost(0x18, (void *)0x20026);
    }
    return 0;
}

#if defined(__riscv)
__attribute__((naked, section(".vectors"), used)) void _start(void)
{
    __asm__ volatile(".option push\n.option norelax\nla sp, _stack_top\n.option pop\ncall main\n1: j 1b");
}
#else
void reset(void)
{
    main();
    for (;;) {
    }
}
__attribute__((section(".vectors"), used)) const void *const vectors[16] = { &_stack_top, (const void *)reset };
#endif
