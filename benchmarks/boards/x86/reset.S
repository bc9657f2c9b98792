/* The ROM of the emulated machine: from the reset vector to 64-bit code at 2 MiB, with 4 KiB pages one to one.
 * 64 KiB at the end of the address space; they hold `supervisor.c` too, which is copied to memory. */
#define SUPERVISOR 0x200000
#define TABLES 0x800000 /* page map, directory pointers, directory, then one page table for each 2 MiB */
#define MEMORY_MIB 256
#define TOP_DIRECTORY (TABLES + 0x3000 + 0x1000 * MEMORY_MIB / 2) /* of the last GiB, for this ROM */

  .section .text
  .code16
start16:
  cli
  mov $2, %al /* address line 20 */
  out %al, $0x92
  mov $TABLES_SELECTOR_OFFSET, %bx
  lgdtl %cs:(%bx)
  mov %cr0, %eax
  or $1, %al
  mov %eax, %cr0
  ljmpl $8, $(0xffff0000 + start32 - start16)

  .code32
start32:
  mov $16, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov $(0xffff0000 + supervisor - start16), %esi
  mov $SUPERVISOR, %edi
  mov $(supervisor_end - supervisor), %ecx
  rep movsb
  mov $TABLES, %edi
  xor %eax, %eax
  mov $(0x1000 * (4 + MEMORY_MIB / 2) / 4), %ecx
  rep stosl
  movl $(TABLES + 0x1003), TABLES
  movl $(TABLES + 0x2003), TABLES + 0x1000
  movl $(TOP_DIRECTORY + 3), TABLES + 0x1000 + 3 * 8
  movl $0xffe00083, TOP_DIRECTORY + 511 * 8 /* one page of 2 MiB */
  mov $(TABLES + 0x2000), %edi /* directory: one entry a page table */
  mov $(TABLES + 0x3003), %eax
  mov $(MEMORY_MIB / 2), %ecx
1: mov %eax, (%edi)
  add $0x1000, %eax
  add $8, %edi
  loop 1b
  mov $(TABLES + 0x3000), %edi /* pages, one to one; the first stays absent, so that NULL faults */
  mov $0x1003, %eax
  mov $(MEMORY_MIB * 256 - 1), %ecx
  add $8, %edi
2: mov %eax, (%edi)
  add $0x1000, %eax
  add $8, %edi
  loop 2b
  mov $TABLES, %eax
  mov %eax, %cr3
  mov $0x40620, %eax /* CR4: OSXSAVE, OSXMMEXCPT, OSFXSR, PAE */
  mov %eax, %cr4
  mov $0xc0000080, %ecx /* EFER: long mode, syscall */
  mov $0x101, %eax
  xor %edx, %edx
  wrmsr
  mov $0x80010033, %eax /* CR0: paging, write protection, numeric errors, protected mode */
  mov %eax, %cr0
  ljmpl $24, $SUPERVISOR

  .balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff /* 8: 32-bit code */
  .quad 0x00cf92000000ffff /* 16: data */
  .quad 0x00af9a000000ffff /* 24: 64-bit code */
  .quad 0x00cf92000000ffff /* 32: data, as syscall wants it beside its code */
gdt_pointer:
  .word gdt_pointer - gdt - 1
  .long 0xffff0000 + gdt - start16
  .set TABLES_SELECTOR_OFFSET, gdt_pointer - start16

supervisor:
  .incbin "supervisor.bin"
supervisor_end:

  .org 0xfff0
  .code16
  .byte 0xe9 /* jmp start16 */
  .word start16 - . - 2
  .org 0xffff
  .byte 0
