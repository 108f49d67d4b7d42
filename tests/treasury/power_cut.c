/* Notes, in one order, what a process does to the files of one directory, so that a power cut at any moment can be
 * played out afterwards: which writes were followed by a sync, and which were not.
 *
 * Loaded with LD_PRELOAD. POWER_DIRECTORY names the directory, POWER_LOG the file of notes. Each note is a header and
 * its data: kind, descriptor, offset (or size), length of the data.
 *
 *   O opened (data: path; offset 1: truncated)   W written (data)   T cut to a size   S synced   U unlinked (data: path)
 *
 * One lock covers each operation together with its note. Shared memory (-shm) and the lock file hold nothing that
 * outlives a power cut.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 1024

struct header {
    char kind;
    char unused[3];
    int32_t descriptor;
    int64_t offset;
    int64_t length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char watched[DESCRIPTORS_MAX];
static const char *directory;
static int notes = -1;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void)
{
    real_open = dlsym(RTLD_NEXT, "open");
    real_close = dlsym(RTLD_NEXT, "close");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    directory = getenv("POWER_DIRECTORY");
    if (directory && getenv("POWER_LOG"))
        notes = real_open(getenv("POWER_LOG"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), ending = strlen(end);
    return length >= ending && strcmp(path + length - ending, end) == 0;
}

static int is_ours(const char *path)
{
    return notes >= 0 && strncmp(path, directory, strlen(directory)) == 0 && !ends_with(path, "-shm") &&
           !ends_with(path, "-lock");
}

static int is_watched(int descriptor)
{
    return descriptor >= 0 && descriptor < DESCRIPTORS_MAX && watched[descriptor];
}

static void put(const void *data, size_t length)
{
    const char *rest = data;
    while (length > 0) {
        ssize_t done = real_write(notes, rest, length);
        if (done <= 0)
            abort();
        rest += done;
        length -= (size_t)done;
    }
}

static void note(char kind, int descriptor, int64_t offset, const void *data, size_t length)
{
    struct header header = {kind, {0}, descriptor, offset, (int64_t)length};
    put(&header, sizeof header);
    if (length)
        put(data, length);
}

static int open_and_note(const char *path, int flags, mode_t mode)
{
    if (notes < 0)
        return real_open(path, flags, mode);
    pthread_mutex_lock(&lock);
    int descriptor = real_open(path, flags, mode);
    if (descriptor >= 0 && descriptor < DESCRIPTORS_MAX) {
        watched[descriptor] = (unsigned char)is_ours(path);
        if (watched[descriptor])
            note('O', descriptor, (flags & O_TRUNC) != 0, path, strlen(path));
    }
    pthread_mutex_unlock(&lock);
    return descriptor;
}

static mode_t mode_of(int flags, va_list *arguments)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(*arguments, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, &arguments);
    va_end(arguments);
    return open_and_note(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, &arguments);
    va_end(arguments);
    return open_and_note(path, flags | O_LARGEFILE, mode);
}

int close(int descriptor)
{
    if (!is_watched(descriptor))
        return real_close(descriptor);
    pthread_mutex_lock(&lock);
    watched[descriptor] = 0;
    int result = real_close(descriptor);
    pthread_mutex_unlock(&lock);
    return result;
}

static ssize_t pwrite_and_note(int descriptor, const void *data, size_t length, off_t offset)
{
    if (!is_watched(descriptor))
        return real_pwrite(descriptor, data, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = real_pwrite(descriptor, data, length, offset);
    if (done > 0)
        note('W', descriptor, offset, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset)
{
    return pwrite_and_note(descriptor, data, length, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset)
{
    return pwrite_and_note(descriptor, data, length, offset);
}

ssize_t write(int descriptor, const void *data, size_t length)
{
    if (!is_watched(descriptor))
        return real_write(descriptor, data, length);
    pthread_mutex_lock(&lock);
    ssize_t done = real_write(descriptor, data, length);
    if (done > 0)
        note('W', descriptor, lseek(descriptor, 0, SEEK_CUR) - done, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

static int ftruncate_and_note(int descriptor, off_t size)
{
    if (!is_watched(descriptor))
        return real_ftruncate(descriptor, size);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(descriptor, size);
    if (result == 0)
        note('T', descriptor, size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int descriptor, off_t size)
{
    return ftruncate_and_note(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size)
{
    return ftruncate_and_note(descriptor, size);
}

static int sync_and_note(int descriptor, int (*sync_file)(int))
{
    if (!is_watched(descriptor))
        return sync_file(descriptor);
    pthread_mutex_lock(&lock);
    int result = sync_file(descriptor);
    if (result == 0)
        note('S', descriptor, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int descriptor)
{
    return sync_and_note(descriptor, real_fsync);
}

int fdatasync(int descriptor)
{
    return sync_and_note(descriptor, real_fdatasync);
}

int unlink(const char *path)
{
    if (!is_ours(path))
        return real_unlink(path);
    pthread_mutex_lock(&lock);
    int result = real_unlink(path);
    if (result == 0)
        note('U', -1, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return result;
}
