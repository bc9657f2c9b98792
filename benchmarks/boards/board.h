/* What a program on an emulated board needs: start-up, text and files of the host by semihosting, a count of
 * instructions. The emulator runs with -icount shift=0: an instruction is one nanosecond.
 */
#include <stdint.h>

int main(void);

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
#ifndef TICK
#define TICK 40 /* instructions: SysTick runs at 25 MHz */
#endif
static uint32_t now(void) { return SYST_CVR; }
static uint32_t since(uint32_t start) { return ((start - SYST_CVR) & 0xffffffu) * TICK; }
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
static void leave(void)
{
    long block[2];
    block[0] = 0x20026;
    block[1] = 0;
    semihost(0x20, block);
    semihost(0x18, (void *)0x20026);
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
