"""The vhost-user host: virtio devices for virtual machines in other processes, over a UNIX socket.

`messages` and `codec` know the bytes, `session` one front end's state, `server` the sockets.
https://qemu-project.gitlab.io/qemu/interop/vhost-user.html
"""
