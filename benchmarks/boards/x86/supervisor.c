/* Runs one static Linux program on a bare x86-64 machine: loads it, and answers the few system calls that it makes.
 *
 * Everything runs in ring 0 and nothing interrupts it. The state that XCR0 enables is what `options` names and the
 * processor has, so that the program's own detection of instruction sets is tested as it stands. Time is the number of
 * instructions executed, one a nanosecond. A fault ends the run and says where.
 *
 * Memory (256 MiB): 2 MiB this; 4 MiB the program; 8 MiB page tables; 10 MiB its heap; 16 MiB
 * options, then the program as it lies in its file; 40 MiB a file that it may open; 64 MiB and up what it maps, and its
 * stack. Options, program and file come from the first disk, in this order, each from a sector of its own.
 */
#include <stddef.h>
#include <stdint.h>

#define OPTIONS 0x1000000u
#define PROGRAM_FILE 0x1001000u
#define DATA_FILE 0x2800000u
#define HEAP 0x0a00000u
#define HEAP_END 0x1000000u
#define MAPS 0x4000000u
#define STACK_END 0x10000000u
#define STACK 0x0f000000u
#define PAGE 4096u
#define FIRST_TABLE 0x803000u

extern void start_program(uint64_t entry, uint64_t stack) __attribute__((noreturn));
extern void on_syscall(void);
extern char vectors[];

typedef struct {
  uint64_t xcr0, program_bytes, data_bytes; /* state to be enabled; lengths */
  uint32_t n_arguments, reserved;
  char text[4064]; /* arguments, each with its end */
} options;

static uint64_t idt[64];

static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port)); }
static void say(const char *text) {
  while (*text) out(0xe9, (uint8_t)*text++);
}
static void say_hex(uint64_t value) {
  say("0x");
  for (int shift = 60; shift >= 0; shift -= 4) out(0xe9, (uint8_t)"0123456789abcdef"[value >> shift & 15]);
}
static void say_number(uint64_t value) {
  if (value >= 10) say_number(value / 10);
  out(0xe9, (uint8_t)('0' + value % 10));
}

static void __attribute__((noreturn)) stop(uint64_t status) {
  say("\n[exit ");
  say_number(status);
  say("]\n");
  for (const char *at = "Shutdown"; *at; ++at) out(0x8900, (uint8_t)*at);
  for (;;) __asm__ volatile("hlt");
}

void __attribute__((noreturn)) report_fault(uint64_t vector, uint64_t error, uint64_t at, uint64_t address) {
  say("\n[exception ");
  say_number(vector);
  say(", error ");
  say_hex(error);
  say(", at ");
  say_hex(at);
  say(", address ");
  say_hex(address);
  say("]");
  stop(128 + vector);
}

static uint8_t in(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
  return value;
}

/* Reads sectors of 512 bytes from the first ATA disk and returns the sector behind them. */
static uint32_t read_disk(uint32_t sector, char *to, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += 512, ++sector) {
    out(0x1f6, (uint8_t)(0xe0 | sector >> 24)), out(0x1f2, 1);
    out(0x1f3, (uint8_t)sector), out(0x1f4, (uint8_t)(sector >> 8)), out(0x1f5, (uint8_t)(sector >> 16));
    out(0x1f7, 0x20);
    while ((in(0x1f7) & 0x88) != 0x08) {
    } /* busy, or without data */
    char *place = to + at;
    uint64_t words = 256;
    __asm__ volatile("rep insw" : "+D"(place), "+c"(words) : "d"((uint16_t)0x1f0) : "memory");
  }
  return sector;
}

static void write_msr(uint32_t msr, uint64_t value) { __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))); }
static uint64_t read_time(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t)high << 32 | low;
}
static void copy(char *to, const char *from, size_t n) { __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory"); }
static void clear(char *to, size_t n) { __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory"); }

/* ---- Memory that the program maps: a byte a page says whether it is taken ------------------------------------ */

static uint8_t taken[(STACK - MAPS) / PAGE];

static void allow(uint64_t from, uint64_t bytes, int writable, int present) {
  for (uint64_t at = from / PAGE; at < (from + bytes + PAGE - 1) / PAGE; ++at) {
    ((volatile uint64_t *)(uintptr_t)FIRST_TABLE)[at] = at * PAGE | (writable ? 2 : 0) | (present ? 1 : 0);
    __asm__ volatile("invlpg (%0)" ::"r"(at * PAGE) : "memory");
  }
}

static int64_t map(uint64_t bytes, int protection) {
  const size_t pages = (bytes + PAGE - 1) / PAGE;
  for (size_t i = 0, run = 0; i < sizeof taken; ++i) {
    run = taken[i] ? 0 : run + 1;
    if (run < pages) continue;
    const size_t first = i + 1 - pages;
    for (size_t k = first; k <= i; ++k) taken[k] = 1;
    const uint64_t at = MAPS + first * (uint64_t)PAGE;
    allow(at, bytes, 1, 1);
    clear((char *)(uintptr_t)at, pages * PAGE);
    allow(at, bytes, protection & 2, protection != 0);
    return (int64_t)at;
  }
  return -12;
}

static int64_t unmap(uint64_t at, uint64_t bytes) {
  if (at < MAPS || at + bytes > STACK) return -22;
  for (uint64_t i = 0; i < (bytes + PAGE - 1) / PAGE; ++i) taken[(at - MAPS) / PAGE + i] = 0;
  allow(at, bytes, 1, 0);
  return 0;
}

/* ---- System calls -------------------------------------------------------------------------------------------- */

static uint64_t heap = HEAP, file_at;

static int64_t print(const char *text, size_t n) {
  for (size_t i = 0; i < n; ++i) out(0xe9, (uint8_t)text[i]);
  return (int64_t)n;
}

static int64_t read_file(char *to, uint64_t n) {
  const options *o = (const options *)(uintptr_t)OPTIONS;
  const uint64_t left = o->data_bytes - file_at;
  if (n > left) n = left;
  copy(to, (const char *)(uintptr_t)DATA_FILE + file_at, n);
  file_at += n;
  return (int64_t)n;
}

int64_t serve(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t number) {
  const options *o = (const options *)(uintptr_t)OPTIONS;
  (void)d, (void)e, (void)f;
  switch (number) {
    case 0: /* read */
      return a == 3 ? read_file((char *)b, c) : 0;
    case 1: /* write */
      return print((const char *)b, c);
    case 20: { /* writev */
      int64_t all = 0;
      for (uint64_t i = 0; i < c; ++i) all += print(((const char **)b)[2 * i], ((const uint64_t *)b)[2 * i + 1]);
      return all;
    }
    case 2:   /* open */
    case 257: /* openat: there is one file */
      file_at = 0;
      return o->data_bytes ? 3 : -2;
    case 3: /* close */
      return 0;
    case 8: /* lseek */
      file_at = c == 0 ? b : c == 1 ? file_at + b : o->data_bytes + b;
      return (int64_t)file_at;
    case 5:     /* fstat */
    case 262: { /* newfstatat: a file's length; anything else is a terminal */
      uint64_t *fields = (uint64_t *)(number == 5 ? b : c);
      clear((char *)fields, 144);
      ((uint32_t *)fields)[6] = a == 3 ? 0100444 : 020620;
      fields[6] = a == 3 ? o->data_bytes : 0, fields[7] = 4096;
      return 0;
    }
    case 9: /* mmap: anonymous memory only */
      return d & 0x20 ? map(b, (int)c) : -19;
    case 10: /* mprotect */
      allow(a, b, c & 2, c != 0);
      return 0;
    case 11: /* munmap */
      return unmap(a, b);
    case 12: /* brk */
      if (a >= HEAP && a <= HEAP_END) {
        if (a > heap) clear((char *)heap, a - heap);
        heap = a;
      }
      return (int64_t)heap;
    case 60:  /* exit */
    case 231: /* exit_group */
      stop(a);
    case 96: { /* gettimeofday */
      ((uint64_t *)a)[0] = read_time() / 1000000000, ((uint64_t *)a)[1] = read_time() / 1000 % 1000000;
      return 0;
    }
    case 158: /* arch_prctl: the thread's base; permission for tiles, as Linux gives it where their state is enabled */
      if (a == 0x1002) return write_msr(0xc0000100, b), 0;
      if (a == 0x1023) return b == 18 && (o->xcr0 & 0x40000) ? 0 : -22;
      return -22;
    case 228: { /* clock_gettime: an instruction is a nanosecond */
      const uint64_t now = read_time();
      ((uint64_t *)b)[0] = now / 1000000000, ((uint64_t *)b)[1] = now % 1000000000;
      return 0;
    }
    case 16:  /* ioctl */
    case 302: /* prlimit64 */
    case 334: /* rseq */
    case 89:  /* readlink */
      return -38;
    case 218: /* set_tid_address */
    case 273: /* set_robust_list */
    case 13:  /* rt_sigaction */
    case 14:  /* rt_sigprocmask */
      return 0;
    case 318: /* getrandom */
      for (uint64_t i = 0; i < b; ++i) ((char *)a)[i] = (char)(i * 37 + 11);
      return (int64_t)b;
    default:
      say("[system call ");
      say_number(number);
      say(" is not served]\n");
      return -38;
  }
}

/* ---- Start --------------------------------------------------------------------------------------------------- */

static uint64_t load_program(const char *file, uint64_t *headers, uint64_t *n_headers) {
  const uint64_t entry = *(const uint64_t *)(file + 24), table = *(const uint64_t *)(file + 32);
  const uint16_t size = *(const uint16_t *)(file + 54), count = *(const uint16_t *)(file + 56);
  *headers = 0, *n_headers = count;
  for (uint16_t i = 0; i < count; ++i) {
    const char *h = file + table + (uint64_t)i * size;
    const uint64_t offset = *(const uint64_t *)(h + 8), at = *(const uint64_t *)(h + 16), in_file = *(const uint64_t *)(h + 32),
                   in_memory = *(const uint64_t *)(h + 40);
    if (*(const uint32_t *)h != 1) continue; /* PT_LOAD */
    if (at < 0x400000 || at + in_memory > 0x800000) {
      say("[the program does not lie between 4 and 8 MiB]");
      stop(126);
    }
    copy((char *)at, file + offset, in_file);
    clear((char *)at + in_file, in_memory - in_file);
    if (table >= offset && table < offset + in_file) *headers = at + table - offset;
  }
  return entry;
}

void supervise(void) {
  options *o = (options *)(uintptr_t)OPTIONS;
  read_disk(0, (char *)o, sizeof *o);
  for (uint64_t i = 0; i < 32; ++i) {
    const uint64_t at = (uint64_t)(uintptr_t)vectors + 16 * i;
    idt[2 * i] = (at & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (at >> 16 & 0xffff) << 48;
    idt[2 * i + 1] = at >> 32;
  }
  const struct __attribute__((packed)) {
    uint16_t limit;
    const void *base;
  } pointer = {sizeof idt - 1, idt};
  __asm__ volatile("lidt %0" ::"m"(pointer));
  uint32_t a, b, c, d;
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(13), "c"(0));
  o->xcr0 &= a | (uint64_t)d << 32;
  o->xcr0 |= 1;
  __asm__ volatile("xsetbv" ::"c"(0), "a"((uint32_t)o->xcr0), "d"((uint32_t)(o->xcr0 >> 32)));
  write_msr(0xc0000081, 24ull << 32 | 24ull << 48); /* STAR: code 24, data 32 */
  write_msr(0xc0000082, (uint64_t)(uintptr_t)on_syscall);
  write_msr(0xc0000084, 0x700); /* direction, interrupts and traps off */
  allow(MAPS, STACK - MAPS, 1, 0);
  read_disk(read_disk(sizeof(options) / 512, (char *)(uintptr_t)PROGRAM_FILE, o->program_bytes), (char *)(uintptr_t)DATA_FILE, o->data_bytes);
  uint64_t headers, n_headers;
  const uint64_t entry = load_program((const char *)(uintptr_t)PROGRAM_FILE, &headers, &n_headers);

  uint64_t *stack = (uint64_t *)(uintptr_t)(STACK_END - 8192), *at = stack;
  *at++ = o->n_arguments;
  const char *text = o->text;
  for (uint32_t i = 0; i < o->n_arguments; ++i) {
    *at++ = (uint64_t)(uintptr_t)text;
    while (*text++) {
    }
  }
  *at++ = 0; /* arguments end; no environment */
  *at++ = 0;
  static const char platform[] = "x86_64", random[16] = "0123456789abcde";
  const uint64_t auxiliary[] = {3,  headers,
                                4,  56,
                                5,  n_headers,
                                6,  PAGE,
                                9,  entry,
                                11, 0,
                                12, 0,
                                13, 0,
                                14, 0,
                                15, (uint64_t)(uintptr_t)platform,
                                17, 100,
                                23, 0,
                                25, (uint64_t)(uintptr_t)random,
                                51, 12288,
                                0,  0}; /* 51: least signal stack */
  for (size_t i = 0; i < sizeof auxiliary / sizeof *auxiliary; ++i) *at++ = auxiliary[i];
  __asm__ volatile("fninit");
  start_program(entry, (uint64_t)(uintptr_t)stack);
}
