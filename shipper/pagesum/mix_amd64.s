#include "textflag.h"

DATA fnvPrime<>+0(SB)/4, $16777619
GLOBL fnvPrime<>(SB), RODATA|NOPTR, $4

// One round of eight lanes: x = sum ^ word; sum = x*prime ^ x>>17.
#define ROUND(OFF, SUM, TMP) \
	VPXOR   OFF(SI), SUM, SUM   \
	VPSRLD  $17, SUM, TMP       \
	VPMULLD Y8, SUM, SUM        \
	VPXOR   TMP, SUM, SUM

// func mixAVX2(sums *[32]uint32, rows *byte, n int)
TEXT ·mixAVX2(SB), NOSPLIT, $0-24
	MOVQ sums+0(FP), DI
	MOVQ rows+8(FP), SI
	MOVQ n+16(FP), CX
	VPBROADCASTD fnvPrime<>(SB), Y8
	VMOVDQU 0(DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3

row:
	ROUND(0, Y0, Y4)
	ROUND(32, Y1, Y5)
	ROUND(64, Y2, Y6)
	ROUND(96, Y3, Y7)
	ADDQ $128, SI
	DECQ CX
	JNZ  row

	VMOVDQU Y0, 0(DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)
	VZEROUPPER
	RET
