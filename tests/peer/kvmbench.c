// The peer: a tiny user-space VMM for Linux's KVM and its benchmarks (raw ioctls, no library). It is also the initramfs's
// init: it mounts /dev, loads irqbypass, kvm and kvm-amd (with npt= as the kernel's command line says in bench.npt=), runs
// the benchmarks and reboots. A RESULT line per figure, and before it an EXITS line with KVM's own counters per operation.
// Every figure is a TSC difference; under `qemu -icount shift=0` one TSC tick is one executed instruction.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KiB 1024UL
#define MiB (1024UL * KiB)
#define PAGE 4096UL

// Guest-physical layout.
enum {
	PML4A = 0x1000, PDPTA = 0x2000, PDA = 0x3000, PD_TEST_A = 0x4000,
	PD_MMIO = 0x6000, PML4B = 0x7000, PDPTB = 0x8000, PD_TEST_B = 0x9000, PT_TEST_B = 0xA000,
	BLOB = 0x10000, IDT = 0x20000, GDT = 0x21000, TSS = 0x22000, STACK_TOP = 0x3f000,
	PT_TEST_A = 0x40000, // 8 tables = 16 MiB of 4 KiB mappings at VA_TEST
	SAMPLES = 0x100000, SAMPLES_MAX = 131072 - 8, // 1 MiB of stamps
	FRAMES = 0x1000000, // 16 MiB of frames behind VA_TEST
};
#define VA_TEST 0x40000000UL
#define GPA_MMIO 0xd0000000UL
#define TEST_PAGES 4096

extern const uint8_t blob_start[], blob_end[];
__asm__(".section .rodata\n.balign 4096\nblob_start: .incbin \"guest.bin\"\nblob_end:\n.previous\n");

static int kvm_fd, npt;
static int vcpu_map_len;
static struct kvm_cpuid2 *cpuid;

static void die(const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	printf("FATAL: ");
	vprintf(fmt, ap);
	printf(" (errno %d %s)\n", errno, strerror(errno));
	va_end(ap);
	fflush(stdout);
	if (getpid() == 1) { sync(); reboot(RB_AUTOBOOT); }
	exit(1);
}
static inline uint64_t rdtsc(void) {
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) :: "memory");
	return (uint64_t)hi << 32 | lo;
}
// Explicit copy so that glibc's choice (rep movsb = one instruction a byte under icount) does not decide the figures.
static inline void copy8(void *d, const void *s, size_t n) {
	n /= 8;
	__asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) :: "memory");
}
static int xioctl(int fd, unsigned long rq, void *p, const char *what) {
	int r = ioctl(fd, rq, p);
	if (r < 0) die("%s", what);
	return r;
}
static uint64_t cpu_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

// ---------------------------------------------------------------- statistics
static int cmp64(const void *a, const void *b) {
	uint64_t x = *(uint64_t *)a, y = *(uint64_t *)b;
	return x < y ? -1 : x > y;
}
static uint64_t null_med; // what the sampling loop itself costs
static void report(const char *name, uint64_t *d, size_t n, uint64_t ovh) {
	if (!n) { printf("RESULT %s n=0\n", name); return; }
	unsigned __int128 sum = 0;
	for (size_t i = 0; i < n; i++) sum += d[i];
	qsort(d, n, sizeof *d, cmp64);
	printf("RESULT %s n=%zu min=%lld med=%lld mean=%lld p99=%lld max=%lld\n", name, n,
		(long long)(d[0] - ovh), (long long)(d[n / 2] - ovh), (long long)((uint64_t)(sum / n) - ovh),
		(long long)(d[n * 99 / 100] - ovh), (long long)(d[n - 1] - ovh));
	fflush(stdout);
}

// ---------------------------------------------------------------- VM
struct vm {
	int fd, vcpu;
	struct kvm_run *run;
	uint8_t *ram;
	size_t size;
	struct kvm_sregs sregs;
};
static uint64_t *q(struct vm *v, uint64_t gpa) { return (uint64_t *)(v->ram + gpa); }

static uint64_t blob_entry(const char *name) {
	const uint64_t *hdr = (const uint64_t *)blob_start;
	const uint8_t *p = blob_start + 40, *end = blob_start + (hdr[1] - BLOB);
	for (; p < end; p += 32)
		if (!strncmp((const char *)p + 8, name, 24)) return *(const uint64_t *)p;
	die("no guest test %s", name);
	return 0;
}
enum { F_POPULATE = 1, F_DIRTYLOG = 2, F_THP = 4, F_KEEP_FRAMES = 8 /* leave FRAMES.. unpopulated */ };
static void vm_mem(struct vm *v, size_t size, int flags) {
	v->size = size;
	// Aligned to 2 MiB so that huge pages are possible where asked for.
	uint8_t *p = mmap(0, size + 2 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) die("mmap ram");
	uint8_t *a = (uint8_t *)(((uintptr_t)p + 2 * MiB - 1) & ~(2 * MiB - 1));
	if (a != p) munmap(p, a - p);
	if (a + size != p + size + 2 * MiB) munmap(a + size, p + size + 2 * MiB - (a + size));
	v->ram = a;
	madvise(v->ram, size, flags & F_THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (flags & F_POPULATE)
		for (size_t i = 0; i < (flags & F_KEEP_FRAMES ? FRAMES : size); i += PAGE) *(volatile uint8_t *)(v->ram + i) = 0;
	struct kvm_userspace_memory_region r = { 0, flags & F_DIRTYLOG ? KVM_MEM_LOG_DIRTY_PAGES : 0, 0, size, (uintptr_t)v->ram };
	xioctl(v->fd, KVM_SET_USER_MEMORY_REGION, &r, "SET_USER_MEMORY_REGION");
}
static void vm_vcpu(struct vm *v) {
	v->vcpu = xioctl(v->fd, KVM_CREATE_VCPU, 0, "CREATE_VCPU");
	v->run = mmap(0, vcpu_map_len, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu, 0);
	if (v->run == MAP_FAILED) die("mmap vcpu");
	xioctl(v->vcpu, KVM_SET_CPUID2, cpuid, "SET_CPUID2");
}
#define P 1ull
#define W 2ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
// Identity map of guest RAM with 2 MiB pages: what the cold-start guest runs on.
static void tables_min(struct vm *v) {
	q(v, PML4A)[0] = PDPTA | P | W | A;
	q(v, PDPTA)[0] = PDA | P | W | A;
	for (uint64_t i = 0; i < v->size / (2 * MiB); i++) q(v, PDA)[i] = i * 2 * MiB | P | W | A | D | PS;
}
static void descriptor_tables(struct vm *v, uint64_t pf_handler) {
	const uint64_t *hdr = (const uint64_t *)blob_start;
	uint64_t *g = q(v, GDT);
	g[0] = 0; g[1] = 0x00af9b000000ffffull; g[2] = 0x00cf93000000ffffull;
	g[3] = 0x00008b0000000067ull | (uint64_t)(TSS & 0xffffff) << 16; g[4] = 0;
	for (int i = 0; i < 256; i++) {
		uint64_t h = i == 14 ? pf_handler : hdr[2], *e = q(v, IDT) + 2 * i;
		e[0] = (h & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48;
		e[1] = h >> 32;
	}
}
static void tables_full(struct vm *v) {
	tables_min(v);
	q(v, PML4B)[0] = PDPTB | P | W | A;
	q(v, PDPTA)[1] = PD_TEST_A | P | W | A;
	q(v, PDPTA)[3] = PD_MMIO | P | W | A;
	q(v, PD_MMIO)[(GPA_MMIO >> 21) & 511] = GPA_MMIO | P | W | A | D | PS | 0x18;
	q(v, PDPTB)[0] = PDA | P | W | A;
	q(v, PDPTB)[1] = PD_TEST_B | P | W | A;
	for (int t = 0; t < 8; t++) q(v, PD_TEST_A)[t] = (PT_TEST_A + t * PAGE) | P | W | A;
	for (uint64_t i = 0; i < TEST_PAGES; i++) q(v, PT_TEST_A)[i] = (FRAMES + i * PAGE) | P | W | A | D;
	q(v, PD_TEST_B)[0] = PT_TEST_B | P | W | A;
	for (uint64_t i = 0; i < 512; i++) q(v, PT_TEST_B)[i] = (FRAMES + (i + 1024) * PAGE) | P | W | A | D;
}
static void set_sregs(struct vm *v, int get) {
	struct kvm_sregs *s = &v->sregs;
	if (get) xioctl(v->vcpu, KVM_GET_SREGS, s, "GET_SREGS");
	struct kvm_segment code = { 0, 0xffffffff, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0 };
	struct kvm_segment data = { 0, 0xffffffff, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0 };
	struct kvm_segment tr = { TSS, 0x67, 24, 11, 1, 0, 0, 0, 0, 0, 0, 0, 0 };
	s->cs = code; s->ss = s->ds = s->es = s->fs = s->gs = data; s->tr = tr;
	s->gdt.base = GDT; s->gdt.limit = 39; s->idt.base = IDT; s->idt.limit = 4095;
	s->cr0 = 0x80010033; s->cr3 = PML4A; s->cr4 = 0x620; s->efer = 0x500;
	xioctl(v->vcpu, KVM_SET_SREGS, s, "SET_SREGS");
}
static void set_regs(struct vm *v, uint64_t rip, struct kvm_regs *x) {
	struct kvm_regs r = { 0 };
	if (x) r = *x;
	r.rip = rip; r.rflags = 2; r.rsp = STACK_TOP;
	xioctl(v->vcpu, KVM_SET_REGS, &r, "SET_REGS");
}
static void vm_open(struct vm *v, size_t size, int flags) {
	memset(v, 0, sizeof *v);
	v->fd = xioctl(kvm_fd, KVM_CREATE_VM, 0, "CREATE_VM");
	vm_mem(v, size, flags);
	vm_vcpu(v);
}
static void vm_close(struct vm *v) {
	munmap(v->run, vcpu_map_len);
	close(v->vcpu); close(v->fd);
	munmap(v->ram, v->size);
}
// Re-enter until the guest says it is finished (port 0xF0).
static void vm_run(struct vm *v) {
	for (;;) {
		int r = ioctl(v->vcpu, KVM_RUN, 0);
		if (r < 0) { if (errno == EINTR || errno == EAGAIN) continue; die("KVM_RUN"); }
		struct kvm_run *k = v->run;
		switch (k->exit_reason) {
		case KVM_EXIT_IO:
			if (k->io.port == 0x10) continue;
			if (k->io.port == 0xF0) return;
			if (k->io.port != 0x11) die("port %x", k->io.port);
			// fall through
		case KVM_EXIT_HLT: {
			struct kvm_interrupt i = { 0x20 };
			if (k->exit_reason == KVM_EXIT_HLT && !k->if_flag) die("HLT with IF=0");
			if (!k->ready_for_interrupt_injection) { k->request_interrupt_window = 1; continue; }
			xioctl(v->vcpu, KVM_INTERRUPT, &i, "KVM_INTERRUPT");
			continue;
		}
		case KVM_EXIT_IRQ_WINDOW_OPEN: {
			struct kvm_interrupt i = { 0x20 };
			k->request_interrupt_window = 0;
			xioctl(v->vcpu, KVM_INTERRUPT, &i, "KVM_INTERRUPT");
			continue;
		}
		case KVM_EXIT_MMIO:
			continue;
		default: {
			struct kvm_regs g = { 0 };
			ioctl(v->vcpu, KVM_GET_REGS, &g);
			die("exit_reason %d rip %llx sub %x err %llx", k->exit_reason, g.rip, k->internal.suberror, k->fail_entry.hardware_entry_failure_reason);
		}
		}
	}
}

// ---------------------------------------------------------------- KVM's own exit counters (binary stats, Linux 5.14+)
static const char *const stat_names[] = { "exits", "io_exits", "mmio_exits", "pf_taken", "pf_fixed", "pf_emulate", "invlpg", "insn_emulation", "irq_injections", "irq_window_exits", "halt_exits", "tlb_flush" };
#define NSTAT (sizeof stat_names / sizeof *stat_names)
static void read_stats(struct vm *v, uint64_t out[NSTAT]) {
	memset(out, 0, NSTAT * 8);
#ifdef KVM_GET_STATS_FD
	int fd = ioctl(v->vcpu, KVM_GET_STATS_FD, 0);
	if (fd < 0) return;
	struct kvm_stats_header h;
	if (pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h) {
		size_t sz = sizeof(struct kvm_stats_desc) + h.name_size;
		char *b = malloc(sz);
		for (unsigned i = 0; i < h.num_desc; i++) {
			struct kvm_stats_desc *d = (void *)b;
			if (pread(fd, b, sz, h.desc_offset + i * sz) != (ssize_t)sz) break;
			for (size_t k = 0; k < NSTAT; k++)
				if (!strcmp(d->name, stat_names[k]) && pread(fd, &out[k], 8, h.data_offset + d->offset) != 8) out[k] = 0;
		}
		free(b);
	}
	close(fd);
#endif
}
static void report_stats(const char *name, const uint64_t *a, const uint64_t *b, size_t n) {
	printf("EXITS %s", name);
	for (size_t k = 0; k < NSTAT; k++)
		if (b[k] != a[k]) printf(" %s=%.3f", stat_names[k], (double)(b[k] - a[k]) / n);
	printf("\n");
}

// ---------------------------------------------------------------- guest-timed tests
static uint64_t deltas[SAMPLES_MAX];
static void collect(struct vm *v, const char *tag, size_t n, uint64_t ovh) {
	uint64_t *s = q(v, SAMPLES);
	for (size_t i = 0; i < n; i++) deltas[i] = s[i + 1] - s[i];
	report(tag, deltas, n, ovh);
}
typedef void prep_fn(struct vm *);
static void no_ptes(struct vm *v) { memset(q(v, PT_TEST_A), 0, 8 * PAGE); }
static int ram_flags; // added to F_POPULATE
static void guest_test(const char *tag, const char *test, size_t n, struct kvm_regs regs, const char *pf, prep_fn *prep, int passes) {
	struct vm v;
	const uint64_t *hdr = (const uint64_t *)blob_start;
	vm_open(&v, 32 * MiB, F_POPULATE | ram_flags);
	memcpy(v.ram + BLOB, blob_start, blob_end - blob_start);
	tables_full(&v);
	descriptor_tables(&v, pf && !strcmp(pf, "map") ? hdr[4] : hdr[3]);
	if (prep) prep(&v);
	set_sregs(&v, 1);
	struct kvm_regs w = { .rdi = SAMPLES, .rsi = SAMPLES_MAX };
	set_regs(&v, blob_entry("warm"), &w);
	vm_run(&v);
	regs.rdi = SAMPLES; regs.rsi = n;
	for (int p = 0; p < passes; p++) {
		uint64_t s0[NSTAT], s1[NSTAT];
		read_stats(&v, s0);
		set_regs(&v, blob_entry(test), &regs);
		vm_run(&v);
		read_stats(&v, s1);
		char t[64];
		snprintf(t, sizeof t, passes > 1 ? "%s_pass%d" : "%s", tag, p + 1);
		report_stats(t, s0, s1, n);
		if (!strcmp(tag, "null")) {
			uint64_t *s = q(&v, SAMPLES);
			for (size_t i = 0; i < n; i++) deltas[i] = s[i + 1] - s[i];
			qsort(deltas, n, 8, cmp64);
			null_med = deltas[n / 2];
			collect(&v, t, n, 0);
		} else
			collect(&v, t, n, null_med);
	}
	vm_close(&v);
}
static void guest_tests(void) {
	struct kvm_regs z = { 0 }, r;
	guest_test("null", "null", 5000, z, 0, 0, 1);
	guest_test("calib_nop16", "calib_nop16", 5000, z, 0, 0, 1);
	guest_test("a_out", "out", 100000, z, 0, 0, 1);
	guest_test("a_in", "in", 5000, z, 0, 0, 1);
	guest_test("b_cpuid", "cpuid", 5000, z, 0, 0, 1);
	guest_test("c_vmmcall", "vmmcall", 5000, z, 0, 0, 1);
	guest_test("d_rdmsr_efer", "rdmsr_efer", 5000, z, 0, 0, 1);
	guest_test("d_wrmsr_efer", "wrmsr_efer", 5000, z, 0, 0, 1);
	r = z; r.rbx = VA_TEST; r.r11 = PAGE;
	guest_test("f_touch", "touch", TEST_PAGES, r, 0, 0, 2);
	ram_flags = F_THP;
	guest_test("f_touch_thp", "touch", TEST_PAGES, r, 0, 0, 1);
	ram_flags = F_KEEP_FRAMES;
	guest_test("f_touch_unpopulated", "touch", TEST_PAGES, r, 0, 0, 1);
	ram_flags = 0;
	r.r11 = 8 * PAGE; // KVM prefetches up to 8 neighbours; this stride defeats it
	guest_test("f_touch_every_8th", "touch", TEST_PAGES / 8, r, 0, 0, 1);
	r = z; r.rbx = VA_TEST; r.r8 = PT_TEST_A; r.r10 = FRAMES | P | W | A | D;
	guest_test("f_mapnew", "mapnew", TEST_PAGES, r, 0, no_ptes, 1);
	r = z; r.rbx = VA_TEST; r.r8 = PT_TEST_A;
	guest_test("f_unmap_cold", "unmap", TEST_PAGES, r, 0, 0, 1);
	r = z; r.rbx = VA_TEST; r.r8 = PT_TEST_A; r.r10 = (FRAMES + PAGE) | P | W | A | D; r.r11 = FRAMES | P | W | A | D;
	guest_test("f_remap_invlpg_touch", "remap", 5000, r, 0, 0, 1);
	r = z; r.rbx = VA_TEST;
	guest_test("f_invlpg", "invlpg", 5000, r, 0, 0, 1);
	guest_test("f_invlpg_touch", "invlpg_touch", 5000, r, 0, 0, 1);
	r.r8 = PML4A; r.r9 = PML4B;
	guest_test("f_cr3_switch_touch", "cr3_switch", 5000, r, 0, 0, 1);
	guest_test("f_cr3_reload", "cr3_reload", 5000, r, 0, 0, 1);
	r = z; r.rbx = 0x80000000; // PDPT[2] is not present
	guest_test("f_guest_pf_skip", "guest_pf", 5000, r, "skip", 0, 1);
	r = z; r.rbx = VA_TEST; r.r8 = PT_TEST_A; r.r10 = FRAMES | P | W | A | D;
	guest_test("f_guest_demand_paging", "demand", TEST_PAGES, r, "map", no_ptes, 1);
	r = z; r.rbx = GPA_MMIO;
	guest_test("g_mmio_write", "mmio_w", 5000, r, 0, 0, 1);
	guest_test("g_mmio_read", "mmio_r", 5000, r, 0, 0, 1);
	guest_test("h_out_interrupt_iret", "irq_out", 5000, z, 0, 0, 1);
	guest_test("h_hlt_interrupt_iret", "irq_hlt", 5000, z, 0, 0, 1);
	guest_test("h_softint_no_exit", "softint", 5000, z, 0, 0, 1);
}

// ---------------------------------------------------------------- cold start
#define COLD_REPS 40
static void cold_start(const char *tag, size_t image, size_t ram, int flags) {
	static uint64_t total[COLD_REPS], ph[8][COLD_REPS], down[COLD_REPS], cpu[COLD_REPS];
	static const char *pn[8] = { "create_vm", "mmap+memslot", "copy_image", "page_tables", "create_vcpu+mmap", "set_cpuid2", "set_sregs_regs", "run_to_first_out" };
	uint8_t *img = malloc(image);
	memset(img, 0x5a, image);
	memcpy(img, blob_start, blob_end - blob_start);
	uint64_t entry = blob_entry("first_out");
	for (int i = -2; i < COLD_REPS; i++) {
		struct vm v = { 0 };
		uint64_t c0 = cpu_ns(), t[9];
		t[0] = rdtsc();
		v.fd = xioctl(kvm_fd, KVM_CREATE_VM, 0, "CREATE_VM");
		t[1] = rdtsc();
		vm_mem(&v, ram, flags);
		t[2] = rdtsc();
		copy8(v.ram + BLOB, img, image);
		t[3] = rdtsc();
		tables_min(&v);
		t[4] = rdtsc();
		v.vcpu = xioctl(v.fd, KVM_CREATE_VCPU, 0, "CREATE_VCPU");
		v.run = mmap(0, vcpu_map_len, PROT_READ | PROT_WRITE, MAP_SHARED, v.vcpu, 0);
		t[5] = rdtsc();
		xioctl(v.vcpu, KVM_SET_CPUID2, cpuid, "SET_CPUID2");
		t[6] = rdtsc();
		set_sregs(&v, 1);
		set_regs(&v, entry, 0);
		t[7] = rdtsc();
		vm_run(&v);
		t[8] = rdtsc();
		uint64_t c1 = cpu_ns();
		vm_close(&v);
		uint64_t t9 = rdtsc();
		if (i < 0) continue;
		for (int k = 0; k < 8; k++) ph[k][i] = t[k + 1] - t[k];
		total[i] = t[8] - t[0]; down[i] = t9 - t[8]; cpu[i] = c1 - c0;
	}
	char b[128];
	snprintf(b, sizeof b, "%s_total", tag); report(b, total, COLD_REPS, 0);
	snprintf(b, sizeof b, "%s_cpu_ns", tag); report(b, cpu, COLD_REPS, 0);
	snprintf(b, sizeof b, "%s_teardown", tag); report(b, down, COLD_REPS, 0);
	for (int k = 0; k < 8; k++) { snprintf(b, sizeof b, "%s:%s", tag, pn[k]); report(b, ph[k], COLD_REPS, 0); }
	free(img);
}
// The same from fork+exec of a process of its own until that process has been reaped.
static void cold_process(void) {
	static uint64_t d[COLD_REPS];
	for (int i = -2; i < COLD_REPS; i++) {
		uint64_t t0 = rdtsc();
		pid_t p = vfork();
		if (!p) { execl("/proc/self/exe", "kvmbench", "--oneshot", (char *)0); _exit(127); }
		int st = -1;
		waitpid(p, &st, 0);
		if (st) die("oneshot status %x", st);
		if (i >= 0) d[i] = rdtsc() - t0;
	}
	report("e_process_64K_2M_exec_to_reap", d, COLD_REPS, 0);
}
static void kvm_init(void) {
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0) die("/dev/kvm");
	vcpu_map_len = xioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0, "VCPU_MMAP_SIZE");
	cpuid = calloc(1, sizeof *cpuid + 256 * sizeof(struct kvm_cpuid_entry2));
	cpuid->nent = 256;
	xioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid, "SUPPORTED_CPUID");
}
static int oneshot(void) {
	struct vm v;
	kvm_init();
	vm_open(&v, 2 * MiB, 0);
	copy8(v.ram + BLOB, blob_start, blob_end - blob_start);
	tables_min(&v);
	set_sregs(&v, 1);
	set_regs(&v, blob_entry("first_out"), 0);
	vm_run(&v);
	return 0;
}

// ---------------------------------------------------------------- reset to a snapshot
#define RESET_REPS 60
static void reset_tests(void) {
	static uint64_t d[RESET_REPS];
	static uint64_t bitmap[8192];
	int sync_caps = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
	if (sync_caps < 0) sync_caps = 0;
	const size_t ram = 2 * MiB;
	const uint64_t dirty_base = 0x100000;
	for (int log = 0; log < 2; log++) {
		struct vm v;
		vm_open(&v, ram, F_POPULATE | (log ? F_DIRTYLOG : 0));
		memcpy(v.ram + BLOB, blob_start, blob_end - blob_start);
		tables_min(&v);
		set_sregs(&v, 1);
		set_regs(&v, blob_entry("first_out"), 0);
		vm_run(&v);
		// snapshot
		uint8_t *snap = malloc(ram);
		memcpy(snap, v.ram, ram);
		struct kvm_regs r0, rs;
		struct kvm_sregs s0;
		struct kvm_fpu fpu;
		struct kvm_vcpu_events ev;
		struct kvm_debugregs dbg;
		static const uint32_t msrs[8] = { 0x174, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0x277, 0x10 };
		struct { struct kvm_msrs h; struct kvm_msr_entry e[8]; } m;
		memset(&m, 0, sizeof m);
		m.h.nmsrs = 8;
		for (int i = 0; i < 8; i++) m.e[i].index = msrs[i];
		xioctl(v.vcpu, KVM_GET_REGS, &r0, "GET_REGS");
		xioctl(v.vcpu, KVM_GET_SREGS, &s0, "GET_SREGS");
		xioctl(v.vcpu, KVM_GET_FPU, &fpu, "GET_FPU");
		int have_ev = ioctl(v.vcpu, KVM_GET_VCPU_EVENTS, &ev) == 0, have_dbg = ioctl(v.vcpu, KVM_GET_DEBUGREGS, &dbg) == 0;
		int nm = ioctl(v.vcpu, KVM_GET_MSRS, &m);
		m.h.nmsrs = nm > 0 ? nm : 0;
		rs = r0; rs.rip = blob_entry("dirty"); rs.rflags = 2;
		struct kvm_regs rf = r0; rf.rip = blob_entry("first_out"); rf.rflags = 2;
		static const int counts[] = { 0, 1, 4, 16, 64 };
		for (unsigned c = 0; c < sizeof counts / sizeof *counts; c++) {
			int dn = counts[c];
			rs.rbx = dirty_base; rs.r10 = dn;
			for (int full = 0; full < 4; full++) {
				if (full == 3 && !(sync_caps & KVM_SYNC_X86_SREGS)) continue;
				for (int i = -3; i < RESET_REPS; i++) {
					uint64_t t0 = rdtsc();
					if (log) {
						struct kvm_dirty_log l = { .slot = 0, .dirty_bitmap = bitmap };
						xioctl(v.fd, KVM_GET_DIRTY_LOG, &l, "GET_DIRTY_LOG");
						for (size_t w = 0; w < ram / PAGE / 64; w++)
							for (uint64_t b = bitmap[w]; b; b &= b - 1) {
								size_t pg = w * 64 + __builtin_ctzll(b);
								copy8(v.ram + pg * PAGE, snap + pg * PAGE, PAGE);
							}
					} else
						copy8(v.ram + dirty_base, snap + dirty_base, dn * PAGE); // the VMM happens to know which
					if (full == 1 || full == 2) xioctl(v.vcpu, KVM_SET_SREGS, &s0, "SET_SREGS");
					if (full == 2) {
						xioctl(v.vcpu, KVM_SET_FPU, &fpu, "SET_FPU");
						if (m.h.nmsrs) ioctl(v.vcpu, KVM_SET_MSRS, &m);
						if (have_dbg) ioctl(v.vcpu, KVM_SET_DEBUGREGS, &dbg);
						if (have_ev) ioctl(v.vcpu, KVM_SET_VCPU_EVENTS, &ev);
					}
					if (full == 3) { // registers travel in the shared page: no ioctl but KVM_RUN
						v.run->s.regs.regs = dn ? rs : rf;
						v.run->s.regs.sregs = s0;
						v.run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
					} else
						xioctl(v.vcpu, KVM_SET_REGS, dn ? &rs : &rf, "SET_REGS");
					vm_run(&v);
					if (i >= 0) d[i] = rdtsc() - t0;
				}
				char b[96];
				static const char *fn[] = { "regs", "regs+sregs", "all_state", "syncregs" };
				snprintf(b, sizeof b, "i_reset_%s_%s_dirty%d", log ? "dirtylog" : "knownpages", fn[full], dn);
				report(b, d, RESET_REPS, 0);
			}
		}
		if (!log) {
			for (int i = -2; i < 50; i++) {
				uint64_t t0 = rdtsc();
				copy8(v.ram, snap, ram);
				xioctl(v.vcpu, KVM_SET_SREGS, &s0, "SET_SREGS");
				xioctl(v.vcpu, KVM_SET_REGS, &rf, "SET_REGS");
				vm_run(&v);
				if (i >= 0) d[i] = rdtsc() - t0;
			}
			report("i_reset_copy_all_2MiB_regs+sregs", d, 50, 0);
		}
		free(snap);
		vm_close(&v);
	}
}

// ---------------------------------------------------------------- what the clock counts
static void calibrate(void) {
	static uint64_t d[1000];
	static uint8_t a[65536], b[65536];
	memset(a, 1, sizeof a); memset(b, 2, sizeof b);
#define CAL(name, N, body) do { for (int i = -5; i < (N); i++) { uint64_t t = rdtsc(); body; t = rdtsc() - t; if (i >= 0) d[i] = t; } report(name, d, (N), 0); } while (0)
	CAL("cal_empty", 1000, (void)0);
	CAL("cal_loop_1M_dec_jnz", 20, ({ uint64_t n = 1000000; __asm__ volatile("1: dec %0; jnz 1b" : "+r"(n)); }));
	CAL("cal_rep_movsb_4096", 200, ({ void *x = a, *y = b; size_t n = 4096; __asm__ volatile("rep movsb" : "+D"(x), "+S"(y), "+c"(n) :: "memory"); }));
	CAL("cal_rep_movsq_512", 200, ({ void *x = a, *y = b; size_t n = 512; __asm__ volatile("rep movsq" : "+D"(x), "+S"(y), "+c"(n) :: "memory"); }));
	CAL("cal_libc_memcpy_4096", 200, memcpy(a, b, 4096); __asm__ volatile("" ::: "memory"));
	CAL("cal_libc_memset_4096", 200, memset(a, i, 4096); __asm__ volatile("" ::: "memory"));
	CAL("cal_syscall_getppid", 1000, syscall(SYS_getppid));
	CAL("cal_ioctl_check_ext", 1000, ioctl(kvm_fd, KVM_CHECK_EXTENSION, 0));
	{ // KVM_RUN that turns round before VMRUN: the ioctl's share of an exit to user space
		struct vm v;
		vm_open(&v, 2 * MiB, 0);
		v.run->immediate_exit = 1;
		CAL("cal_kvm_run_immediate_exit", 1000, ioctl(v.vcpu, KVM_RUN, 0));
		vm_close(&v);
	}
	CAL("cal_page_fault_anon", 200, ({ static uint8_t *p; if (!p) { p = mmap(0, 4 * MiB, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); madvise(p, 4 * MiB, MADV_NOHUGEPAGE); } *(volatile uint8_t *)p = 1; p += PAGE; }));
}

static void benchmarks(void) {
	kvm_init();
	calibrate();
	guest_tests();
	cold_start("e_cold_64K_2M", 64 * KiB, 2 * MiB, 0);
	cold_start("e_cold_64K_16M", 64 * KiB, 16 * MiB, 0);
	cold_start("e_cold_1M_2M", 1 * MiB, 2 * MiB, 0);
	cold_start("e_cold_1M_16M", 1 * MiB, 16 * MiB, 0);
	cold_start("e_cold_1M_16M_thp", 1 * MiB, 16 * MiB, F_THP);
	{ // with another VM alive KVM need not switch SVM and its static keys on and off (kernel text patching) each time
		struct vm keeper;
		vm_open(&keeper, 2 * MiB, 0);
		cold_start("e_cold_64K_2M_other_vm_alive", 64 * KiB, 2 * MiB, 0);
		cold_start("e_cold_1M_16M_other_vm_alive", 1 * MiB, 16 * MiB, 0);
		vm_close(&keeper);
	}
	cold_process();
	reset_tests();
}

// ---------------------------------------------------------------- init
static void insmod(const char *path, const char *args) {
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return; // built into this kernel
	if (syscall(SYS_finit_module, fd, args, 0)) die("insmod %s", path);
	close(fd);
}
int main(int argc, char **argv) {
	if (argc > 1 && !strcmp(argv[1], "--oneshot")) return oneshot();
	if (getpid() != 1) die("this is an init; `cargo xtask bench --vs kvm` boots it");
	setvbuf(stdout, 0, _IOLBF, 4096);
	mkdir("/dev", 0755); mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	mount("dev", "/dev", "devtmpfs", 0, 0);
	int fd = open("/dev/console", O_RDWR);
	if (fd >= 0) { dup2(fd, 0); dup2(fd, 1); dup2(fd, 2); }
	static char cl[4096];
	fd = open("/proc/cmdline", O_RDONLY);
	if (read(fd, cl, sizeof cl - 1) < 0) die("cmdline");
	close(fd);
	char *a = strstr(cl, "bench.npt=");
	npt = a ? atoi(a + 10) : 0;
	insmod("/irqbypass.ko", "");
	insmod("/kvm.ko", "");
	char args[32];
	snprintf(args, sizeof args, "npt=%d", npt);
	insmod("/kvm-amd.ko", args);
	char is = '?';
	mkdir("/sys", 0755);
	mount("sysfs", "/sys", "sysfs", 0, 0);
	fd = open("/sys/module/kvm_amd/parameters/npt", O_RDONLY);
	if (fd < 0 || read(fd, &is, 1) != 1 || is != (npt ? 'Y' : 'N')) die("kvm_amd's npt parameter reads %c", is);
	close(fd);
	benchmarks();
	printf("BENCH-DONE\n");
	fflush(stdout);
	sync();
	reboot(RB_AUTOBOOT);
	for (;;) pause();
}
