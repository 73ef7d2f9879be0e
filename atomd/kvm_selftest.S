# The smallest guest that shows whether an accelerator runs guests: it enters long mode with paging, as every real
# system does, says so to isa-debug-exit (exit code 0x10 * 2 + 1 = 33), and halts. 512 bytes, booted by the BIOS.
# Derived bytes: accelerator.BOOT_SECTOR. Make them anew with
#   as --64 -o selftest.o kvm_selftest.S && ld -Ttext=0x7c00 -e start --oformat binary -o selftest.bin selftest.o
.code16
.globl start
start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp

    # Three page tables at 0x1000, 0x2000, 0x3000: the first 2 MiB, mapped as they are by one large page.
    mov $0x1000, %edi
    xor %eax, %eax
    mov $3072, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x83, 0x3000

    mov $0x1000, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax               # PAE
    mov %eax, %cr4
    mov $0xC0000080, %ecx        # EFER
    rdmsr
    or $0x100, %eax              # LME
    wrmsr
    lgdt gdtr
    mov %cr0, %eax
    or $0x80000001, %eax         # PG, PE
    mov %eax, %cr0
    ljmp $8, $long

.code64
long:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $0x10, %al
    mov $0xf4, %dx
    out %al, %dx
1:  hlt
    jmp 1b

.align 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff     # code, 64 bits
    .quad 0x00cf92000000ffff     # data
gdtr:
    .word 23
    .long gdt

.org 510
    .word 0xaa55
