# The guest: micro-benchmarks (64-bit ring 0, flat binary linked at 0x10000) that kvmbench.c runs inside the VM.
# Each TEST stores one TSC stamp per iteration at (%rdi); the VMM takes differences.
# Convention on entry: rdi = sample buffer, rsi = iterations, r8..r11/rbx = test parameters, rsp = stack.
# Ports: 0xF0 = finished, 0x10 = ping (user space just re-enters), 0x11 = ping + please inject vector 0x20.
	.code64
	.section .table,"a"
	.quad	0x4b564d42454e4348, table_end, irq_entry, pf_skip_entry, pf_map_entry
	.text

.macro TEST name
	.pushsection .table
7:	.quad	8f
	.ascii	"\name"
	.org	7b + 32, 0
	.popsection
8:
.endm
.macro STAMP
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, (%rdi)
	add	$8, %rdi
.endm
.macro BEGIN
	.balign 16
1:	STAMP
.endm
.macro END
	dec	%rsi
	jnz	1b
	STAMP
	out	%al, $0xF0
9:	hlt
	jmp	9b
.endm

	TEST "first_out"		# cold start: leaves to user space at once (the NOP keeps the entry RIP away from the
	nop				# OUT's, else KVM completes the pending OUT of the previous run after a reset)
	out	%al, $0xF0
9:	hlt
	jmp	9b

	TEST "null"			# the sampling loop itself
	BEGIN
	END

	TEST "calib_nop16"		# 16 instructions: calibrates TSC against instructions inside the guest
	BEGIN
	.rept 16
	nop
	.endr
	END

	TEST "warm"			# touch the sample buffer so that it is mapped before a measured run
2:	mov	%rax, (%rdi)
	add	$4096, %rdi
	sub	$512, %rsi
	ja	2b
	out	%al, $0xF0
9:	hlt
	jmp	9b

	TEST "out"			# (a) port write to user space and back
	BEGIN
	out	%al, $0x10
	END

	TEST "in"			# (a') port read to user space and back
	BEGIN
	in	$0x10, %al
	END

	TEST "cpuid"			# (b) exit handled in the kernel
	BEGIN
	xor	%eax, %eax
	xor	%ecx, %ecx
	cpuid
	END

	TEST "vmmcall"			# (c) hypercall 1 (VAPIC_POLL_IRQ): returns 0, does nothing
	BEGIN
	mov	$1, %eax
	vmmcall
	END

	TEST "rdmsr_efer"		# (d)
	BEGIN
	mov	$0xc0000080, %ecx
	rdmsr
	END

	TEST "wrmsr_efer"		# (d') read once, then write the same value back
	mov	$0xc0000080, %ecx
	rdmsr
	mov	%eax, %r8d
	mov	%edx, %r9d
	BEGIN
	mov	$0xc0000080, %ecx
	mov	%r8d, %eax
	mov	%r9d, %edx
	wrmsr
	END

	TEST "touch"			# (f) store to pages rbx, rbx+r11, ...
	BEGIN
	mov	%rax, (%rbx)
	add	%r11, %rbx
	END

	TEST "mapnew"			# (f) guest writes a fresh PTE (r8, value r10), then stores to the page rbx
	BEGIN
	mov	%r10, (%r8)
	mov	%rax, (%rbx)
	add	$8, %r8
	add	$4096, %r10
	add	$4096, %rbx
	END

	TEST "unmap"			# (f) guest clears a PTE and invalidates
	BEGIN
	movq	$0, (%r8)
	invlpg	(%rbx)
	add	$8, %r8
	add	$4096, %rbx
	END

	TEST "remap"			# (f) flip one PTE between two frames, invlpg, read through it
	BEGIN
	mov	%r10, (%r8)
	invlpg	(%rbx)
	mov	(%rbx), %r12
	xchg	%r10, %r11
	END

	TEST "invlpg_touch"
	BEGIN
	invlpg	(%rbx)
	mov	(%rbx), %r12
	END

	TEST "invlpg"
	BEGIN
	invlpg	(%rbx)
	END

	TEST "cr3_switch"		# (f) alternate between two address spaces, touching one page in each
	BEGIN
	mov	%r8, %cr3
	mov	(%rbx), %r12
	xchg	%r8, %r9
	END

	TEST "cr3_reload"		# (f) reload the same CR3 (guest-wide TLB flush)
	BEGIN
	mov	%r8, %cr3
	END

	TEST "guest_pf"			# guest-visible #PF on an unmapped page, handler skips the 3-byte load
	BEGIN
	mov	(%rbx), %r12
	END

	TEST "demand"			# guest demand paging: the #PF handler writes the PTE and retries
	BEGIN
	mov	%r12, (%rbx)
	add	$4096, %rbx
	END

	TEST "mmio_w"			# (g)
	BEGIN
	mov	%eax, (%rbx)
	END

	TEST "mmio_r"			# (g)
	BEGIN
	mov	(%rbx), %ecx
	END

	TEST "outsb_4k"			# hv only: 4 KiB of string output to user space
	BEGIN
	mov	%rsi, %r12
	mov	%rbx, %rsi
	mov	$4096, %ecx
	mov	$0x10, %edx
	rep outsb
	mov	%r12, %rsi
	END

	TEST "irq_out"			# (h) OUT, VMM queues vector 0x20, handler is a bare IRETQ
	sti
	BEGIN
	out	%al, $0x11
	END

	TEST "irq_hlt"			# (h) HLT exit, VMM queues vector 0x20
	sti
	BEGIN
	hlt
	END

	TEST "softint"			# in-guest INT 0x20 + IRETQ: no exit; the floor for (h)
	BEGIN
	int	$0x20
	END

	TEST "dirty"			# (i) write r10 pages at rbx, then leave
2:	mov	%rbx, (%rbx)
	add	$4096, %rbx
	dec	%r10
	jnz	2b
	out	%al, $0xF0
9:	hlt
	jmp	9b

	TEST "call_nop"			# hv only: a call by the doorbell port that hv answers itself
	BEGIN
	mov	$0x4856, %edx
	xor	%eax, %eax
	out	%eax, %dx
	END

	TEST "clock"			# hv only: nanoseconds = ticks * r8 / 2^32, no exit; what reading a clock costs
	BEGIN
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mul	%r8
	shrd	$32, %rdx, %rax
	END

.macro X2APIC			# switches the local APIC on, in x2APIC mode
	mov	$0x1b, %ecx
	rdmsr
	or	$0x400, %eax
	wrmsr
	mov	$0x80f, %ecx
	mov	$0x1ff, %eax
	xor	%edx, %edx
	wrmsr
.endm

	TEST "eoi"			# hv only: the end of an interrupt, as an x2APIC MSR
	X2APIC
	mov	$0x80b, %ecx
	BEGIN
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	END

	TEST "timer_tick"		# hv only: programs the APIC's timer, sleeps until it interrupts, ends the interrupt
	X2APIC
	mov	$0x83e, %ecx		# divide by 1
	mov	$0xb, %eax
	wrmsr
	mov	$0x832, %ecx		# one-shot, vector 0x20
	mov	$0x20, %eax
	wrmsr
	sti
	BEGIN
	xor	%edx, %edx
	mov	$0x838, %ecx
	mov	$20000, %eax
	wrmsr
	hlt
	mov	$0x80b, %ecx
	xor	%eax, %eax
	wrmsr
	END

	.balign 16
irq_entry:
	iretq
	.balign 16
pf_skip_entry:				# error code on top of the frame
	add	$8, %rsp
	addq	$3, (%rsp)
	iretq
	.balign 16
pf_map_entry:				# r8 = next PTE address, r10 = next PTE value
	mov	%r10, (%r8)
	add	$8, %r8
	add	$4096, %r10
	add	$8, %rsp
	iretq

	.section .table
table_end:
	.quad	0
