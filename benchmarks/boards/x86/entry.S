/* Entry of the supervisor at 2 MiB, of system calls and of exceptions. */
  .section .entry, "ax"
  .code64
  mov $32, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  lea stack_top(%rip), %rsp
  call supervise

  .text
  .globl start_program
start_program: /* (entry, stack): never returns */
  mov %rsi, %rsp
  mov %rdi, %rax
  xor %edx, %edx
  xor %ebp, %ebp
  jmp *%rax

/* The program's stack may hold live values below its pointer, so nothing is pushed there. */
  .globl on_syscall
on_syscall:
  mov %rsp, program_stack(%rip)
  lea stack_top(%rip), %rsp
  push %rcx
  push %r11
  push %rdi
  push %rsi
  push %rdx
  push %r10
  push %r8
  push %r9
  mov %r10, %rcx /* the fourth argument */
  push %rax      /* and the seventh: the number */
  call serve
  pop %r9
  pop %r9
  pop %r8
  pop %r10
  pop %rdx
  pop %rsi
  pop %rdi
  popfq
  pop %rcx
  mov program_stack(%rip), %rsp
  jmp *%rcx

  .altmacro
  .macro vector n
  .balign 16
  .if \n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21
  .else
  push $0
  .endif
  push $\n
  jmp fault
  .endm
  .balign 16
  .globl vectors
vectors:
  .set at, 0
  .rept 32
  vector %at
  .set at, at + 1
  .endr
fault: /* vector, error, instruction */
  mov (%rsp), %rdi
  mov 8(%rsp), %rsi
  mov 16(%rsp), %rdx
  mov %cr2, %rcx
  lea stack_top(%rip), %rsp
  call report_fault

  .bss
program_stack: .quad 0
  .balign 16
  .skip 65536
stack_top:
