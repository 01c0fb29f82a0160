/* Lets a CRIU before 4.1 work on a kernel from 6.13 on, for the tests.
 *
 * Since then the clock pages of the vDSO are a mapping of their own, `[vvar_vclock]`, between
 * `[vvar]` and `[vdso]`. An older CRIU knows only the two and refuses to work at all. Preloaded
 * into it, this gives it tables of mappings (`maps`, `smaps`) in which `[vvar]` covers both. For
 * dumps that is as good; restores are none of the tests' business.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_table(const char *path) {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    return !strcmp(name, "maps") || !strcmp(name, "smaps");
}

/* The whole of a file as a string, for which read(2) must not be ours. */
static char *text_of(int fd) {
    size_t room = 1 << 20, length = 0;
    char *text = malloc(room);
    ssize_t got;
    while (text && (got = syscall(SYS_read, fd, text + length, room - length - 1)) > 0) {
        length += got;
        if (room - length < 1 << 16)
            text = realloc(text, room *= 2);
    }
    if (text)
        text[length] = 0;
    return text;
}

/* Copies a table without `[vvar_vclock]`, whose pages go to `[vvar]` before it. */
static int merged(int fd) {
    char *text = text_of(fd), *line, *next;
    int copy = memfd_create("maps", MFD_CLOEXEC), skip = 0;
    FILE *out = copy < 0 ? NULL : fdopen(dup(copy), "w");
    if (!text || !out)
        abort();
    for (line = text; *line; line = next) {
        unsigned long start, end, after, last;
        char newline, *mark = strstr(line, "[vvar_vclock]");
        next = strchr(line, '\n');
        next = next ? next + 1 : line + strlen(line);
        /* A line of attributes in smaps has a colon after its first word. */
        if (sscanf(line, "%lx-%lx %*4c%c", &start, &end, &newline) == 3) {
            skip = mark && mark < next;
            if (!skip && mark && memmem(line, next - line, "[vvar]", 6)) {
                while (mark[-1] != '\n')
                    mark--;
                if (sscanf(mark, "%lx-%lx", &after, &last) == 2 && after == end) {
                    fprintf(out, "%lx-%lx", start, last);
                    line = strchr(line, ' ');
                }
            }
        }
        if (!skip)
            fwrite(line, 1, next - line, out);
    }
    fclose(out);
    free(text);
    close(fd);
    lseek(copy, 0, SEEK_SET);
    return copy;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    int reads = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_PATH);
    return fd >= 0 && reads && is_table(path) ? merged(fd) : fd;
}

#define MODE(mode) va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest)
int openat(int folder, const char *path, int flags, ...) { MODE(mode); return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(mode); return opened(folder, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(mode); return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(mode); return opened(AT_FDCWD, path, flags, mode); }
