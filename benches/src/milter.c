/* A milter that does nothing, in the steps of a session that Portcullis asks for. */

#include <sys/stat.h>
#include <sysexits.h>
#include <libmilter/mfapi.h>

static sfsistat on_connect(SMFICTX *session, char *host, _SOCK_ADDR *address)
{
    (void)session, (void)host, (void)address;
    return SMFIS_CONTINUE;
}

static sfsistat on_helo(SMFICTX *session, char *name)
{
    (void)session, (void)name;
    return SMFIS_CONTINUE;
}

static sfsistat on_address(SMFICTX *session, char **arguments)
{
    (void)session, (void)arguments;
    return SMFIS_CONTINUE;
}

static struct smfiDesc milter = {
    .xxfi_name = "nothing",
    .xxfi_version = SMFI_VERSION,
    .xxfi_connect = on_connect,
    .xxfi_helo = on_helo,
    .xxfi_envfrom = on_address,
    .xxfi_envrcpt = on_address,
};

int main(int count, char **arguments)
{
    if (count != 2 || smfi_setconn(arguments[1]) != MI_SUCCESS)
        return EX_USAGE;
    umask(0); /* Postfix's programs run as another user. */
    if (smfi_register(milter) != MI_SUCCESS)
        return EX_UNAVAILABLE;
    return smfi_main() == MI_SUCCESS ? EX_OK : EX_UNAVAILABLE;
}
