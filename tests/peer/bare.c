// The floor: a bare-metal PVH ELF (QEMU -kernel) that measures SVM world switches under TCG: VMRUN -> exit -> VMRUN with
// no handler, then with the least a real hypervisor has to do. A RESULT line per loop on COM1; ends via isa-debug-exit 0xf4.
#include <stdint.h>

__asm__(
".section .note.pvh,\"a\",@note\n"
"	.long 4, 8, 18\n	.asciz \"Xen\"\n	.quad pvh_start\n"
".text\n.code32\n.globl pvh_start\n"
"pvh_start:\n"
"	cli\n	cld\n"
"	mov $pd, %edi\n	mov $0x83, %eax\n	xor %ecx, %ecx\n"
"1:	mov %eax, (%edi,%ecx,8)\n	movl $0, 4(%edi,%ecx,8)\n	add $0x200000, %eax\n	inc %ecx\n	cmp $512, %ecx\n	jb 1b\n"
"	movl $pd + 3, pdpt\n	movl $pdpt + 3, pml4\n"
"	mov %cr4, %eax\n	or $0x620, %eax\n	mov %eax, %cr4\n"
"	mov $pml4, %eax\n	mov %eax, %cr3\n"
"	mov $0xc0000080, %ecx\n	rdmsr\n	or $0x1900, %eax\n	wrmsr\n" // NXE is bit 11, SVME 12, LME 8
"	mov %cr0, %eax\n	or $0x80010003, %eax\n	and $~0xc, %eax\n	mov %eax, %cr0\n"
"	lgdt gdtr\n	ljmp $8, $long_mode\n"
".code64\n"
"long_mode:\n"
"	mov $16, %eax\n	mov %eax, %ds\n	mov %eax, %es\n	mov %eax, %ss\n	mov %eax, %fs\n	mov %eax, %gs\n"
"	mov $24, %eax\n	ltr %ax\n"
"	mov $stack_top, %esp\n	call main\n"
"1:	mov $0xf4, %edx\n	xor %eax, %eax\n	out %al, %dx\n	hlt\n	jmp 1b\n"
".balign 16\n.globl guest_vmmcall, guest_vmmcall_loop, guest_out, guest_cpuid, guest_touch, guest_irq, guest_iret\n"
"guest_vmmcall:	vmmcall\n"
"guest_vmmcall_loop: vmmcall\n	jmp guest_vmmcall_loop\n"
"guest_out:	out %al, $0x10\n	jmp guest_out\n"
"guest_cpuid:	cpuid\n	jmp guest_cpuid\n"
"guest_touch:	mov %rax, (%rbx)\n	add $4096, %rbx\n	jmp guest_touch\n"
"guest_irq:	vmmcall\n	jmp guest_irq\n"
"guest_iret:	iretq\n"
".data\n.balign 16\n"
"gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x0000890000000067, 0\n"
"gdtr:	.word 39\n	.quad gdt\n"
".bss\n.balign 4096\n.globl pml4, pdpt, pd\n"
"pml4:	.skip 4096\npdpt:	.skip 4096\npd:	.skip 4096\nstack:	.skip 16384\nstack_top:\n.text\n");

extern uint64_t pml4[512], pdpt[512], pd[512];
extern char guest_vmmcall[], guest_vmmcall_loop[], guest_out[], guest_cpuid[], guest_touch[], guest_irq[], guest_iret[];
#define PAGED __attribute__((aligned(4096), used))
static uint8_t vmcb[4096] PAGED, host_vmcb[4096] PAGED, hsave[4096] PAGED, iopm[3 * 4096] PAGED, msrpm[2 * 4096] PAGED;
static uint64_t pt_touch[8 * 512] PAGED, pd_touch[512] PAGED, gidt[512] PAGED, npml4[512] PAGED, npdpt[512] PAGED;
#define N 20000
static uint64_t samples[N + 8];
uint64_t gregs[16] __attribute__((used)), pte_next[2] __attribute__((used));

static inline void outb(uint16_t p, uint8_t v) { __asm__ volatile("outb %0, %1" :: "a"(v), "Nd"(p)); }
static void putc(char c) { outb(0x3f8, c); }
static void puts(const char *s) { while (*s) putc(*s++); }
static void putn(uint64_t v) {
	char b[24]; int i = 24;
	do { b[--i] = '0' + v % 10; v /= 10; } while (v);
	while (i < 24) putc(b[i++]);
}
static void wrmsr(uint32_t m, uint64_t v) { __asm__ volatile("wrmsr" :: "c"(m), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))); }
#define F8(o) (*(volatile uint8_t *)(vmcb + (o)))
#define F16(o) (*(volatile uint16_t *)(vmcb + (o)))
#define F32(o) (*(volatile uint32_t *)(vmcb + (o)))
#define F64(o) (*(volatile uint64_t *)(vmcb + (o)))
static void seg(int o, uint16_t sel, uint16_t attr, uint32_t limit, uint64_t base) {
	F16(0x400 + o) = sel; F16(0x402 + o) = attr; F32(0x404 + o) = limit; F64(0x408 + o) = base;
}
static uint64_t null_med;
static void vmcb_reset(void *rip) {
	for (int i = 0; i < 4096; i++) F8(i) = 0;
	F32(0x0c) = 1u << 18 | 1u << 27 | 1u << 31; // CPUID, IOIO, shutdown
	F32(0x10) = 3;                              // VMRUN, VMMCALL
	F64(0x40) = (uint64_t)iopm; F64(0x48) = (uint64_t)msrpm; F32(0x58) = 1;
	seg(0x00, 16, 0xc93, ~0u, 0); seg(0x10, 8, 0xa9b, ~0u, 0); seg(0x20, 16, 0xc93, ~0u, 0); seg(0x30, 16, 0xc93, ~0u, 0);
	seg(0x40, 16, 0xc93, ~0u, 0); seg(0x50, 16, 0xc93, ~0u, 0); seg(0x90, 24, 0x8b, 0x67, 0);
	uint8_t g[10];
	__asm__ volatile("sgdt %0" : "=m"(g));
	seg(0x60, 0, 0, 39, *(uint64_t *)(g + 2)); seg(0x80, 0, 0, 4095, (uint64_t)gidt);
	uint64_t cr0, cr3, cr4;
	__asm__("mov %%cr0, %0" : "=r"(cr0)); __asm__("mov %%cr3, %0" : "=r"(cr3)); __asm__("mov %%cr4, %0" : "=r"(cr4));
	F64(0x400 + 0xd0) = 0x1500 | 0x800; F64(0x400 + 0x148) = cr4; F64(0x400 + 0x150) = cr3; F64(0x400 + 0x158) = cr0;
	F64(0x400 + 0x160) = 0x400; F64(0x400 + 0x168) = 0xffff0ff0; F64(0x400 + 0x170) = 0x202;
	F64(0x400 + 0x178) = (uint64_t)rip; F64(0x400 + 0x1d8) = (uint64_t)gregs; F64(0x400 + 0x268) = 0x0007040600070406ull;
}
static void stat(const char *name, uint64_t n, uint64_t ovh) {
	uint64_t mn = ~0ull, mx = 0, sum = 0, atmin = 0;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t d = samples[i + 1] - samples[i];
		if (d < mn) { mn = d; atmin = 0; }
		if (d == mn) atmin++;
		if (d > mx) mx = d;
		sum += d;
	}
	// insertion-free median: binary search on the value
	uint64_t lo = mn, hi = mx;
	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2, c = 0;
		for (uint64_t i = 0; i < n; i++) c += samples[i + 1] - samples[i] <= mid;
		if (c * 2 >= n) hi = mid; else lo = mid + 1;
	}
	uint64_t mean = sum / n;
#define S(x) ((x) > ovh ? (x) - ovh : 0)
	puts("RESULT "); puts(name);
	puts(" n="); putn(n); puts(" min="); putn(S(mn)); puts(" med="); putn(S(lo)); puts(" mean="); putn(S(mean)); puts(" max="); putn(S(mx));
	puts(" exitcode="); putn(F64(0x70)); puts("\n");
	if (!ovh) null_med = lo;
}
// rdi = samples, rsi = iterations, r8 = VMCB.  Stamp, PRE, VMRUN, POST.
#define STAMP "rdtsc\n shl $32, %%rdx\n or %%rdx, %%rax\n mov %%rax, (%%rdi)\n add $8, %%rdi\n"
#define LOOP(n, body) do { uint64_t *d_ = samples, n_ = (n), v_ = (uint64_t)vmcb; register uint64_t b_ __asm__("rbx") = 0x40000000; \
	register uint64_t r8_ __asm__("r8") = v_; \
	__asm__ volatile(".balign 16\n1:\n" STAMP body "dec %%rsi\n jnz 1b\n" STAMP : "+D"(d_), "+S"(n_), "+r"(b_), "+r"(r8_) \
	:: "rax", "rdx", "rcx", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc"); } while (0)
#define VMRUN "mov %%r8, %%rax\n vmrun %%rax\n"
#define ADV(k) "addq $" #k ", 0x578(%%r8)\n"
#define SWAP_IN "push %%rdi\n push %%rsi\n push %%rbp\n push %%r8\n" \
	"mov gregs+8, %%rbx\n mov gregs+16, %%rcx\n mov gregs+24, %%rdx\n mov gregs+32, %%rsi\n mov gregs+40, %%rdi\n mov gregs+48, %%rbp\n" \
	"mov gregs+64, %%r8\n mov gregs+72, %%r9\n mov gregs+80, %%r10\n mov gregs+88, %%r11\n mov gregs+96, %%r12\n mov gregs+104, %%r13\n mov gregs+112, %%r14\n mov gregs+120, %%r15\n"
#define SWAP_OUT \
	"mov %%rbx, gregs+8\n mov %%rcx, gregs+16\n mov %%rdx, gregs+24\n mov %%rsi, gregs+32\n mov %%rdi, gregs+40\n mov %%rbp, gregs+48\n" \
	"mov %%r8, gregs+64\n mov %%r9, gregs+72\n mov %%r10, gregs+80\n mov %%r11, gregs+88\n mov %%r12, gregs+96\n mov %%r13, gregs+104\n mov %%r14, gregs+112\n mov %%r15, gregs+120\n" \
	"pop %%r8\n pop %%rbp\n pop %%rsi\n pop %%rdi\n"
#define REAL_SWITCH "clgi\n" SWAP_IN "mov $vmcb, %%eax\n vmload %%rax\n vmrun %%rax\n vmsave %%rax\n" SWAP_OUT "mov $host_vmcb, %%eax\n vmload %%rax\n stgi\n"

void main(void) {
	wrmsr(0xc0010117, (uint64_t)hsave);
	for (int i = 0; i < 3 * 4096; i++) iopm[i] = 0xff;
	// Guest IDT: every vector is IRETQ.
	for (int i = 0; i < 256; i++) {
		uint64_t h = (uint64_t)guest_iret;
		gidt[2 * i] = (h & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48;
		gidt[2 * i + 1] = h >> 32;
	}
	vmcb_reset(guest_vmmcall);
	LOOP(N, ""); stat("null_loop", N, 0);
	uint64_t o = null_med;
	LOOP(N, "nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\n"); stat("calib_nop16", N, o);
	__asm__ volatile("vmsave %%rax" :: "a"(host_vmcb) : "memory");
	// r8 holds the VMCB and the guest never changes a register here, so host registers may simply stay live.
	vmcb_reset(guest_vmmcall);
	LOOP(N, VMRUN); stat("vmrun_vmmcall_no_handler", N, o);
	vmcb_reset(guest_vmmcall_loop);
	LOOP(N, VMRUN ADV(3)); stat("vmrun_vmmcall_advance_rip", N, o);
	vmcb_reset(guest_vmmcall_loop);
	LOOP(N, "movb $1, 0x5c(%%r8)\n" VMRUN ADV(3)); stat("vmrun_vmmcall_tlb_flush_all", N, o);
	vmcb_reset(guest_out);
	LOOP(N, VMRUN "mov 0x80(%%r8), %%rax\n mov %%rax, 0x578(%%r8)\n"); stat("vmrun_out_advance_rip", N, o);
	vmcb_reset(guest_cpuid);
	LOOP(N, VMRUN ADV(2)); stat("vmrun_cpuid_advance_rip", N, o);
	vmcb_reset(guest_vmmcall_loop);
	LOOP(N, REAL_SWITCH ADV(3)); stat("full_switch_vmmcall", N, o);
	// Nested paging: identity, one 1 GiB page at a time (2 MiB pages of the host's own directory).
	npml4[0] = (uint64_t)npdpt | 7; npdpt[0] = (uint64_t)pd | 7;
	for (int i = 0; i < 512; i++) pd[i] |= 4;
	vmcb_reset(guest_vmmcall_loop);
	F64(0x90) = 1; F64(0xb0) = (uint64_t)npml4;
	LOOP(N, VMRUN ADV(3)); stat("npt_vmrun_vmmcall_advance_rip", N, o);
	vmcb_reset(guest_vmmcall_loop);
	F64(0x90) = 1; F64(0xb0) = (uint64_t)npml4;
	LOOP(N, REAL_SWITCH ADV(3)); stat("npt_full_switch_vmmcall", N, o);
	// Interrupt injection: EVENTINJ vector 0x20, guest handler is IRETQ, guest then does VMMCALL.
	vmcb_reset(guest_irq);

	static uint64_t gstack[512] __attribute__((aligned(16)));
	F64(0x400 + 0x1d8) = (uint64_t)(gstack + 512);
	LOOP(N, "mov $0x80000020, %%eax\n mov %%rax, 0xa8(%%r8)\n" VMRUN ADV(3)); stat("vmrun_inject_irq_iret_vmmcall", N, o);
	// Shadow fault floor: the guest stores to fresh pages, #PF exits, the host writes the one PTE and re-enters.
	pdpt[1] = (uint64_t)pd_touch | 7;
	for (int t = 0; t < 8; t++) pd_touch[t] = (uint64_t)(pt_touch + 512 * t) | 7;
	vmcb_reset(guest_touch);
	F32(0x08) = 1u << 14;
	pte_next[0] = (uint64_t)pt_touch; pte_next[1] = 0x1000000 | 7; // frames 16 MiB.. of RAM, unused by this program
	LOOP(4096, VMRUN "mov pte_next, %%rcx\n mov pte_next+8, %%rax\n mov %%rax, (%%rcx)\n addq $8, pte_next\n addq $4096, pte_next+8\n");
	stat("shadow_fault_fill_one_pte", 4095, o);
	puts("BENCH-DONE\n");
}
