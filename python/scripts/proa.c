/*
 * The command `proa`: finds the interpreter that it was installed for and becomes it.
 *
 * It exists because no line `#!` that pip writes can carry options, and an interpreter without `site` and without
 * a look at the locale starts in three quarters of the time. There is nothing else here: what a command is, Python knows.
 *
 *     bin/proad             a script whose first line, written by pip, names the interpreter
 *     bin/python3.X         the interpreter of a virtual environment, where that line does not
 *     lib/python3.X/...     the package; without the bundle of its modules (an editable installation) `site` finds it
 *
 * No C library: its start-up would be a third of the launcher's time. Other processors than these two take it.
 */

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PYTHON
#error "PYTHON is the name of the interpreter, python3.X"
#endif

#define BUNDLE "/proa/cli/commands.bundle"
#define SIZE 4096

/* Runs the bundle (proa/cli/bundle.py); the directory that the package is in is the first argument. */
static const char boot[] =
    "import marshal,posix,sys\n"
    "d=sys.argv.pop(1)\n"
    "f=posix.open(d+'" BUNDLE "',posix.O_CLOEXEC)\n"
    "c,p=marshal.loads(posix.read(f,8192))\n"
    "g={'__name__':'proa.cli.bundle'}\n"
    "exec(c,g)\n"
    "g['start'](f,p,d)\n";

/* Where installers put packages, from the prefix on; the last is pip's --target. */
static const char *const places[] = {
    "/lib/" PYTHON "/site-packages",
    "/lib64/" PYTHON "/site-packages",
    "/lib/" PYTHON "/dist-packages",
    "",
};

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d)
{
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall launch_from_stack\n");
#elif defined(__aarch64__)
static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl launch_from_stack\n");
#else
#define HOSTED
#define call(number, a, b, c, d) syscall(number, a, b, c, d)
#endif

static long length_of(const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    return length;
}

/* Appends to a path; what does not fit makes it empty, which nothing opens. */
static void append(char *path, const char *text)
{
    long at = length_of(path), more = length_of(text);
    if (at + more >= SIZE) {
        path[0] = 0;
        return;
    }
    for (long i = 0; i <= more; i++)
        path[at + i] = text[i];
}

static void cut_last(char *path)
{
    long at = length_of(path);
    while (at && path[--at] != '/')
        ;
    path[at] = 0;
}

static int is_there(const char *path)
{
    return call(SYS_faccessat, AT_FDCWD, (long)path, F_OK, 0) == 0;
}

/* The interpreter that the first line of the script beside this program names; empty where it is no plain path. */
static void read_interpreter(char *path, const char *directory)
{
    static char text[SIZE];
    path[0] = 0;
    append(path, directory);
    append(path, "/proad");
    long fd = call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
    path[0] = 0;
    if (fd < 0)
        return;
    long got = call(SYS_read, fd, (long)text, SIZE - 1, 0);
    call(SYS_close, fd, 0, 0, 0);
    if (got < 3 || text[0] != '#' || text[1] != '!' || text[2] != '/')
        return;
    long end = 2, name = 2;
    while (text[end] && text[end] != '\n' && text[end] != ' ') {
        if (text[end++] == '/')
            name = end;
    }
    /* A path that the kernel would not take as an interpreter's stands behind /bin/sh. */
    if (text[end] != '\n' || text[name] != 'p' || text[name + 1] != 'y')
        return;
    text[end] = 0;
    append(path, text + 2);
}

static void find_interpreter(char *path, const char *directory)
{
    read_interpreter(path, directory);
    if (path[0] && is_there(path))
        return;
    path[0] = 0;
    append(path, directory);
    append(path, "/" PYTHON);
}

/* The directory that the package lies in; empty where there is no bundle in it. */
static void find_package(char *path, const char *prefix)
{
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        path[0] = 0;
        append(path, prefix);
        append(path, places[i]);
        long end = length_of(path);
        append(path, BUNDLE);
        if (is_there(path)) {
            path[end] = 0;
            return;
        }
    }
    path[0] = 0;
}

static int launch(int argc, char **argv, char **environment)
{
    static char directory[SIZE], interpreter[SIZE], package[SIZE];
    static const char lost[] = "proa: there is no " PYTHON " that it was installed for\n";
    char *arguments[argc + 9];
    int count = 0;
    if (call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)directory, SIZE - 1) < 0)
        append(directory, argc ? argv[0] : "");
    cut_last(directory);
    find_interpreter(interpreter, directory);
    cut_last(directory);
    find_package(package, directory);
    arguments[count++] = interpreter;
    if (package[0]) {
        arguments[count++] = "-I";
        arguments[count++] = "-S";
        arguments[count++] = "-Xutf8";
        arguments[count++] = "-c";
        arguments[count++] = (char *)boot;
        arguments[count++] = package;
    } else {
        arguments[count++] = "-P";
        arguments[count++] = "-m";
        arguments[count++] = "proa.cli";
    }
    for (int i = 1; i < argc; i++)
        arguments[count++] = argv[i];
    arguments[count] = 0;
    call(SYS_execve, (long)interpreter, (long)arguments, (long)environment, 0);
    call(SYS_write, 2, (long)lost, sizeof lost - 1, 0);
    return 127;
}

#ifdef HOSTED
int main(int argc, char **argv, char **environment)
{
    return launch(argc, argv, environment);
}
#else
__attribute__((used, noreturn)) void launch_from_stack(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    call(SYS_exit_group, launch(argc, argv, argv + argc + 1), 0, 0, 0);
    __builtin_unreachable();
}
#endif
