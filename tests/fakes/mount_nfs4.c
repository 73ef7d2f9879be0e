/* mount.nfs4 for kernels that have no NFS client: FUSE on this side, libnfs on the other, real NFSv4 on the wire.
 *
 * Called by mount(8) as its helper: mount.nfs4 HOST:PATH DIR -o OPTIONS. It mounts once, or says why not and ends with
 * 32; then it behaves as a `hard` mount does: what is not the server's clear answer is asked again, for ever. Files are
 * opened anew for each call, so that no state is lost with a server; a file that is removed while open is gone.
 *
 *   cc mount_nfs4.c -o mount.nfs4 $(pkg-config --cflags --libs fuse3 libnfs)
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <nfsc/libnfs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512 /* libnfs 4 encodes no large writes */

static char url[1024], place[1024];
static struct nfs_context *nfs;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int begin(char *why, size_t size)
{
    struct nfs_context *fresh = nfs_init_context();
    struct nfs_url *parsed = nfs_parse_url_dir(fresh, url);
    int code = parsed ? nfs_mount(fresh, parsed->server, parsed->path) : -EINVAL;
    if (code && why)
        snprintf(why, size, "%s", nfs_get_error(fresh));
    if (parsed)
        nfs_destroy_url(parsed);
    if (code)
        nfs_destroy_context(fresh);
    else
        nfs = fresh;
    return code;
}

/* Whether the server itself has said so. */
static int is_answer(int code)
{
    static const int clear[] = {ENOENT, EEXIST, EACCES, EPERM, ENOTDIR, EISDIR, ENOTEMPTY, EROFS, ENOSPC, ENAMETOOLONG,
                                EDQUOT, EXDEV, EFBIG, EOPNOTSUPP};
    if (code >= 0)
        return 1;
    for (size_t i = 0; i < sizeof clear / sizeof *clear; i++)
        if (code == -clear[i])
            return 1;
    return 0;
}

/* A mount that was torn out is nobody's any more. */
static int is_mounted(void)
{
    char line[4096];
    int found = 0;
    FILE *mounts = fopen("/proc/self/mounts", "r");
    while (mounts && !found && fgets(line, sizeof line, mounts))
        found = strstr(line, place) != NULL;
    if (mounts)
        fclose(mounts);
    return found;
}

#define HARD(expression)                                                                                               \
    int code = -EIO;                                                                                                   \
    pthread_mutex_lock(&turn);                                                                                         \
    for (;;) {                                                                                                         \
        if ((nfs || !begin(NULL, 0)) && is_answer(code = (expression)))                                                \
            break;                                                                                                     \
        if (nfs)                                                                                                       \
            nfs_destroy_context(nfs);                                                                                  \
        nfs = NULL;                                                                                                    \
        if (!is_mounted())                                                                                             \
            _exit(1);                                                                                                  \
        usleep(200000);                                                                                                \
    }                                                                                                                  \
    pthread_mutex_unlock(&turn)

static void told(struct stat *to, const struct nfs_stat_64 *from)
{
    memset(to, 0, sizeof *to);
    to->st_ino = from->nfs_ino;
    to->st_mode = from->nfs_mode;
    to->st_nlink = from->nfs_nlink;
    to->st_uid = from->nfs_uid;
    to->st_gid = from->nfs_gid;
    to->st_size = from->nfs_size;
    to->st_blksize = 4096;
    to->st_blocks = (from->nfs_size + 511) / 512;
    to->st_mtime = from->nfs_mtime;
    to->st_ctime = from->nfs_ctime;
    to->st_atime = from->nfs_atime;
}

static int do_getattr(const char *path, struct stat *to, struct fuse_file_info *info)
{
    struct nfs_stat_64 found;
    HARD(nfs_lstat64(nfs, path, &found));
    if (!code)
        told(to, &found);
    return code;
}

static int do_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                      enum fuse_readdir_flags flags)
{
    struct nfsdir *dir = NULL;
    HARD(nfs_opendir(nfs, path, &dir));
    if (code)
        return code;
    pthread_mutex_lock(&turn);
    for (struct nfsdirent *entry; (entry = nfs_readdir(nfs, dir));)
        fill(buffer, entry->name, NULL, 0, 0);
    nfs_closedir(nfs, dir);
    pthread_mutex_unlock(&turn);
    return 0;
}

static int whole(const char *path, int flags, mode_t mode, char *to, const char *from, size_t size, off_t offset)
{
    struct nfsfh *file;
    size_t done = 0;
    int code = nfs_open2(nfs, path, flags, mode, &file);
    if (code)
        return code;
    while (done < size) {
        size_t part = size - done < BLOCK ? size - done : BLOCK;
        code = to ? nfs_pread(nfs, file, offset + done, part, to + done)
                  : nfs_pwrite(nfs, file, offset + done, part, (void *)(from + done));
        if (code <= 0)
            break;
        done += code;
    }
    if (code >= 0)
        code = nfs_close(nfs, file);
    return code < 0 ? code : (int)done;
}

static int do_read(const char *path, char *to, size_t size, off_t offset, struct fuse_file_info *info)
{
    HARD(whole(path, O_RDONLY, 0, to, NULL, size, offset));
    return code;
}

static int do_write(const char *path, const char *from, size_t size, off_t offset, struct fuse_file_info *info)
{
    HARD(whole(path, O_WRONLY, 0, NULL, from, size, offset));
    return code;
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    HARD(whole(path, O_WRONLY | O_CREAT, mode & 07777, NULL, NULL, 0, 0));
    return code;
}

static int do_open(const char *path, struct fuse_file_info *info)
{
    if (!(info->flags & O_TRUNC))
        return 0;
    HARD(nfs_truncate(nfs, path, 0));
    return code;
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    HARD(nfs_truncate(nfs, path, size));
    return code;
}

static int do_mkdir(const char *path, mode_t mode)
{
    HARD(nfs_mkdir2(nfs, path, mode & 07777));
    return code;
}

static int do_unlink(const char *path)
{
    HARD(nfs_unlink(nfs, path));
    return code;
}

static int do_rmdir(const char *path)
{
    HARD(nfs_rmdir(nfs, path));
    return code;
}

static int do_symlink(const char *to, const char *path)
{
    HARD(nfs_symlink(nfs, to, path));
    return code;
}

static int do_readlink(const char *path, char *to, size_t size)
{
    HARD(nfs_readlink(nfs, path, to, size));
    return code < 0 ? code : 0;
}

static int do_rename(const char *from, const char *to, unsigned int flags)
{
    if (flags)
        return -EINVAL;
    HARD(nfs_rename(nfs, from, to));
    return code;
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    HARD(nfs_chmod(nfs, path, mode & 07777));
    return code;
}

static int do_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
    return 0;
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    return 0;
}

static int do_fsync(const char *path, int only_data, struct fuse_file_info *info)
{
    return 0;
}

static const struct fuse_operations operations = {
    .getattr = do_getattr, .readdir = do_readdir, .read = do_read, .write = do_write, .create = do_create,
    .open = do_open, .truncate = do_truncate, .mkdir = do_mkdir, .unlink = do_unlink, .rmdir = do_rmdir,
    .symlink = do_symlink, .readlink = do_readlink, .rename = do_rename, .chmod = do_chmod, .chown = do_chown,
    .utimens = do_utimens, .fsync = do_fsync,
};

int main(int count, char **words)
{
    const char *options = "", *what = count > 2 ? words[1] : "", *where = count > 2 ? words[2] : "";
    for (int i = 3; i + 1 < count; i++)
        if (!strcmp(words[i], "-o"))
            options = words[i + 1];
    const char *path = strstr(what, ":/"), *port = strstr(options, "port=");
    if (!path || !port) {
        fprintf(stderr, "mount.nfs4: HOST:PATH DIR -o port=PORT is what this one takes\n");
        return 32;
    }
    snprintf(url, sizeof url, "nfs://%.*s%s/?version=4&nfsport=%d&autoreconnect=0", (int)(path - what), what, path + 1,
             atoi(port + 5));
    snprintf(place, sizeof place, " %s ", where);
    char why[256];
    if (begin(why, sizeof why)) {
        fprintf(stderr, "mount.nfs4: %s\n", why);
        return 32;
    }
    nfs_destroy_context(nfs); /* its socket would not survive becoming a daemon */
    nfs = NULL;
    char with[64];
    snprintf(with, sizeof with, "allow_other,default_permissions,%s,nosuid,nodev", strstr(options, ",ro") ? "ro" : "rw");
    char *own[] = {"mount.nfs4", (char *)where, "-s", "-o", with, NULL};
    return fuse_main(5, own, &operations, NULL) ? 32 : 0;
}
