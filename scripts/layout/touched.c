/* Runs a program and lists the functions it enters: a breakpoint on each function of its symbol
 * table, removed when it is hit. One name a line goes to the file.
 *
 *   touched FILE PROGRAM [ARGUMENTS]
 *
 * Children that it starts run untraced from their exec on. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct place {
	uint64_t address;
	const char *name;
	unsigned char byte;
	char seen;
};

static struct place *places;
static size_t count;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int by_address(const void *one, const void *two)
{
	uint64_t a = ((const struct place *)one)->address, b = ((const struct place *)two)->address;
	return (a > b) - (a < b);
}

static struct place *find(uint64_t address)
{
	struct place key = {.address = address};
	return bsearch(&key, places, count, sizeof key, by_address);
}

static void read_symbols(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;
	if (file < 0 || fstat(file, &about))
		fail(path);
	unsigned char *elf = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
	if (elf == MAP_FAILED)
		fail("mmap");
	Elf64_Ehdr *head = (void *)elf;
	Elf64_Shdr *sections = (void *)(elf + head->e_shoff);
	for (int i = 0; i < head->e_shnum; i++) {
		if (sections[i].sh_type != SHT_SYMTAB)
			continue;
		Elf64_Sym *symbols = (void *)(elf + sections[i].sh_offset);
		size_t all = sections[i].sh_size / sizeof *symbols;
		const char *names = (char *)elf + sections[sections[i].sh_link].sh_offset;
		places = calloc(all, sizeof *places);
		for (size_t j = 0; j < all; j++)
			if (ELF64_ST_TYPE(symbols[j].st_info) == STT_FUNC && symbols[j].st_shndx && symbols[j].st_size)
				places[count++] = (struct place){symbols[j].st_value, names + symbols[j].st_name, 0, 0};
	}
	if (!count) {
		fprintf(stderr, "%s has no symbols\n", path);
		exit(1);
	}
	qsort(places, count, sizeof *places, by_address);
}

static uint64_t base_of(pid_t pid)
{
	char path[64];
	unsigned long base = 0;
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "r");
	if (!maps || fscanf(maps, "%lx-", &base) != 1)
		fail(path);
	fclose(maps);
	return base;
}

static void plant(pid_t pid, uint64_t base)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int memory = open(path, O_RDWR | O_CLOEXEC);
	if (memory < 0)
		fail(path);
	for (size_t i = 0; i < count; i++) {
		places[i].address += base;
		unsigned char stop = 0xcc;
		if (pread(memory, &places[i].byte, 1, (off_t)places[i].address) != 1)
			fail("read");
		if (pwrite(memory, &stop, 1, (off_t)places[i].address) != 1)
			fail("write");
	}
	close(memory);
}

/* Whether the thread stopped at one of ours; it then goes on as if nothing had been there. */
static int hit(pid_t thread, FILE *out)
{
	struct user_regs_struct registers;
	if (ptrace(PTRACE_GETREGS, thread, 0, &registers))
		return 0;
	struct place *place = find(registers.rip - 1);
	if (!place)
		return 0;
	registers.rip--;
	uint64_t word_at = place->address & ~7ull, shift = (place->address & 7) * 8;
	errno = 0;
	uint64_t word = (uint64_t)ptrace(PTRACE_PEEKTEXT, thread, word_at, 0);
	if (!errno) {
		word = (word & ~(0xffull << shift)) | ((uint64_t)place->byte << shift);
		ptrace(PTRACE_POKETEXT, thread, word_at, word);
	}
	ptrace(PTRACE_SETREGS, thread, 0, &registers);
	if (!place->seen) {
		place->seen = 1;
		fprintf(out, "%s\n", place->name);
		fflush(out);
	}
	return 1;
}

int main(int arguments, char **words)
{
	if (arguments < 3) {
		fprintf(stderr, "usage: %s FILE PROGRAM [ARGUMENTS]\n", words[0]);
		return 2;
	}
	FILE *out = fopen(words[1], "we");
	if (!out)
		fail(words[1]);
	read_symbols(words[2]);
	/* One breakpoint an address, whatever its names. */
	size_t kept = 0;
	for (size_t i = 0; i < count; i++)
		if (!kept || places[kept - 1].address != places[i].address)
			places[kept++] = places[i];
	count = kept;
	pid_t main_pid = fork();
	if (!main_pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(words[2], words + 2);
		_exit(127);
	}
	int status;
	if (waitpid(main_pid, &status, 0) < 0 || !WIFSTOPPED(status))
		fail(words[2]);
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	plant(main_pid, base_of(main_pid));
	ptrace(PTRACE_SETOPTIONS, main_pid, 0,
	       PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
	ptrace(PTRACE_CONT, main_pid, 0, 0);
	for (;;) {
		pid_t thread = waitpid(-1, &status, __WALL);
		if (thread < 0)
			break;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (thread == main_pid)
				break;
			continue;
		}
		int number = WSTOPSIG(status), event = status >> 16;
		if (event == PTRACE_EVENT_EXEC) {
			ptrace(PTRACE_DETACH, thread, 0, 0);
			continue;
		}
		if (event || number == SIGSTOP)
			number = 0;
		else if (number == SIGTRAP && hit(thread, out))
			number = 0;
		ptrace(PTRACE_CONT, thread, 0, number);
	}
	fclose(out);
	return 0;
}
