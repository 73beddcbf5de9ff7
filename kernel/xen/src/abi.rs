//! The generated layouts, pinned at compile time to the sizes and offsets of Xen's
//! ABI on x86-64: a header or a generator that changes one must not go unnoticed.

use core::mem::{offset_of, size_of};

use crate::bindings::*;

macro_rules! layout {
    ($($type:ty, $size:literal { $($($field:ident).+ @ $offset:literal),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(offset_of!($type, $($field).+) == $offset);)*
        };)*
    };
}

layout! {
    gnttab_copy, 40 { source.u @ 0, source.domid @ 8, source.offset @ 10, dest.u @ 16,
        dest.domid @ 24, dest.offset @ 26, len @ 32, flags @ 34, status @ 36 }
    gnttab_map_grant_ref, 32 { host_addr @ 0, flags @ 8, ref_ @ 12, dom @ 16, status @ 18,
        handle @ 20, dev_bus_addr @ 24 }
    gnttab_unmap_grant_ref, 24 { host_addr @ 0, dev_bus_addr @ 8, handle @ 16, status @ 20 }
    evtchn_bind_interdomain, 12 { remote_dom @ 0, remote_port @ 4, local_port @ 8 }
    evtchn_bind_virq, 12 { virq @ 0, vcpu @ 4, port @ 8 }
    evtchn_close, 4 { port @ 0 }
    evtchn_send, 4 { port @ 0 }
    evtchn_unmask, 4 { port @ 0 }
    vcpu_time_info, 32 { version @ 0, tsc_timestamp @ 8, system_time @ 16,
        tsc_to_system_mul @ 24, tsc_shift @ 28 }
    vcpu_info, 64 { evtchn_upcall_pending @ 0, evtchn_upcall_mask @ 1, evtchn_pending_sel @ 8,
        time @ 32 }
    shared_info, 3136 { vcpu_info @ 0, evtchn_pending @ 2048, evtchn_mask @ 2560 }
    vcpu_set_singleshot_timer, 16 { timeout_abs_ns @ 0, flags @ 8 }
    xen_add_to_physmap, 24 { domid @ 0, size @ 2, space @ 4, idx @ 8, gpfn @ 16 }
    xen_memory_map, 16 { nr_entries @ 0, buffer @ 8 }
    xen_hvm_param, 16 { domid @ 0, index @ 4, value @ 8 }
    xen_hvm_evtchn_upcall_vector, 8 { vcpu @ 0, vector @ 4 }
    sched_shutdown, 4 { reason @ 0 }
    hvm_start_info, 56 { magic @ 0, version @ 4, flags @ 8, nr_modules @ 12, modlist_paddr @ 16,
        cmdline_paddr @ 24, rsdp_paddr @ 32, memmap_paddr @ 40, memmap_entries @ 48 }
    hvm_modlist_entry, 32 { paddr @ 0, size @ 8, cmdline_paddr @ 16 }
    hvm_memmap_table_entry, 24 { addr @ 0, size @ 8, type_ @ 16 }
    xsd_sockmsg, 16 { type_ @ 0, req_id @ 4, tx_id @ 8, len @ 12 }
    xenstore_domain_interface, 2076 { req @ 0, rsp @ 1024, req_cons @ 2048, req_prod @ 2052,
        rsp_cons @ 2056, rsp_prod @ 2060 }
    xencons_interface, 3088 { in_ @ 0, out @ 1024, in_cons @ 3072, in_prod @ 3076,
        out_cons @ 3080, out_prod @ 3084 }
    netif_tx_request, 12 { gref @ 0, offset @ 4, flags @ 6, id @ 8, size @ 10 }
    netif_tx_response, 4 { id @ 0, status @ 2 }
    netif_rx_request, 8 { id @ 0, pad @ 2, gref @ 4 }
    netif_rx_response, 8 { id @ 0, offset @ 2, flags @ 4, status @ 6 }
    netif_extra_info, 8 { type_ @ 0, flags @ 1, u @ 2 }
    xen_netif_ctrl_request, 16 { id @ 0, type_ @ 2, data @ 4 }
    xen_netif_ctrl_response, 12 { id @ 0, type_ @ 2, status @ 4, data @ 8 }
}
