"""A guest in 512 bytes that writes: it counts up in sector 64 of its first disk, and says so on its serial port.

It stands still for as long as a write does. For tests of disks across the network.
"""

SECTOR = 64
SOURCE = r"""
.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $ready, %si
    call print
    sti
1:  incl 0x8000                  # the count, which the BIOS left at zero
    movw $packet, %si
    movw $0x4300, %ax
    movb $0x80, %dl
    int $0x13                    # extended write
    movw $wrote, %si
    jnc 2f
    movw $failed, %si
2:  call print
    movw $4, %cx
3:  hlt                          # the timer wakes it 18 times a second
    loop 3b
    jmp 1b
print:
    pushw %dx
    pushw %ax
    movw $0x3f8, %dx
4:  lodsb
    testb %al, %al
    jz 5f
    outb %al, %dx
    jmp 4b
5:  popw %ax
    popw %dx
    ret
ready: .asciz "ATOMOS-READY writer\r\n"
wrote: .asciz "w\r\n"
failed: .asciz "E\r\n"
.balign 4
packet: .byte 16, 0
    .word 1, 0x8000, 0
    .long 64, 0
.org 510
    .word 0xaa55
"""

BOOT_SECTOR = (
    bytes.fromhex(
        """
        31c08ed8 8ec08ed0 bc007cbe 447ce823 00fb66ff 060080be 647cb800 43b280cd 13be5a7c 7303be5e 7ce80800 b90400f4
        e2fdebde 5250baf8 03ac84c0 7403eeeb f8585ac3 41544f4d 4f532d52 45414459 20777269 7465720d 0a00770d 0a00450d
        0a006690 10000100 00800000 40
        """
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)

DISK = BOOT_SECTOR.ljust(1 << 20, b"\0")


def count_in(image: bytes) -> int:
    """How far it has written."""
    return int.from_bytes(image[SECTOR * 512 : SECTOR * 512 + 4], "little")
