# Runs "$@" inside REHEARSAL_ROOT; docker/rehearse.py calls this in a mount and process namespace of its own.
set -eu
root=$REHEARSAL_ROOT
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
printf '%s\n' "$REHEARSAL_SHOWN" | while read -r shown; do
  [ -n "$shown" ] || continue
  mkdir -p "$root$shown"
  mount --bind "$shown" "$root$shown"
  mount -o remount,bind,ro "$root$shown"
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ -n "$REHEARSAL_SEALED" ]; then
  printf '%s\n' "$REHEARSAL_VOLUMES" | while read -r volume; do
    [ -z "$volume" ] || mount --bind "$root$volume" "$root$volume"
  done
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
fi
user=$REHEARSAL_USER directory=$REHEARSAL_DIR
unset REHEARSAL_ROOT REHEARSAL_USER REHEARSAL_DIR REHEARSAL_SHOWN REHEARSAL_VOLUMES REHEARSAL_SEALED
# signals as an engine leaves them, whatever started this
exec env --default-signal chroot --userspec="$user" "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$directory" "$@"
