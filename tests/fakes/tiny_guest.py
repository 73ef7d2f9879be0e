"""A guest in 512 bytes: it prints a marker on its serial port, idles, and obeys the power button.

For tests of domains that need no network. BIOS on q35 or pc, whose power registers stand at 0x600.
"""

SOURCE = r"""
.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $ready, %si
    call print
    movw $0x602, %dx
    movw $0x100, %ax
    outw %ax, %dx                # PM1_EN: the power button is heard
    movw $0x600, %dx
1:  inw %dx, %ax                 # PM1_STS
    testb $1, %ah
    jnz 2f
    sti
    hlt                          # the timer wakes it 18 times a second
    jmp 1b
2:  movw $off, %si
    call print
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx                # PM1_CNT: S5, off
3:  hlt
    jmp 3b
print:
    pushw %dx
    movw $0x3f8, %dx
4:  lodsb
    testb %al, %al
    jz 5f
    outb %al, %dx
    jmp 4b
5:  popw %dx
    ret
ready: .asciz "ATOMOS-READY bs\r\n"
off:   .asciz "ATOMOS-POWEROFF\r\n"
.org 510
    .word 0xaa55
"""

BOOT_SECTOR = (
    bytes.fromhex(
        """
        31c08ed8 8ed0bc00 7cbe417c e82400ba 0206b800 01efba00 06edf6c4 017504fb f4ebf6be 537ce80a 00ba0406
        b80020ef f4ebfd52 baf803ac 84c07403 eeebf85a c341544f 4d4f532d 52454144 59206273 0d0a0041 544f4d4f
        532d504f 5745524f 46460d0a
        """
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)

DISK = BOOT_SECTOR.ljust(1 << 20, b"\0")  # SeaBIOS reads by cylinder, and finds none on a smaller disk
