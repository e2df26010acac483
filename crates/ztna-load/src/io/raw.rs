//! A raw IPv4 socket that sends whole packets, many in one call.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Packets in one sendmmsg: from 64 on the call itself no longer counts.
pub const BATCH: usize = 64;
/// Packets that may wait in the kernel, bytes.
const SEND_BUFFER: usize = 8 << 20;

/// Sends packets that bring their own IPv4 header. Needs CAP_NET_RAW.
pub struct RawSocket {
    socket: Socket,
    to: libc::sockaddr_in,
}

impl RawSocket {
    pub fn new(to: SocketAddrV4) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.set_header_included_v4(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        // SAFETY: sockaddr_in is plain data for which all zeroes are a value.
        let mut address: libc::sockaddr_in = unsafe { zeroed() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        Ok(RawSocket { socket, to: address })
    }

    /// Sends the first packets of a batch: how many went.
    pub fn send<const N: usize>(&mut self, packets: &mut [[u8; N]]) -> io::Result<usize> {
        let name: *mut libc::sockaddr_in = &mut self.to;
        let mut parts: Vec<libc::iovec> = packets
            .iter_mut()
            .take(BATCH)
            .map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: N })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: mmsghdr is plain data for which all zeroes are a value: no control data, no flags.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_name = name.cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: every message points at one iovec of `parts` and at `self.to`, every iovec at one packet; all of them outlive
        // the call, and the count is that of `messages`.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as libc::c_uint, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
